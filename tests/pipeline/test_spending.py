"""A bill that ends by itself: limits of time and money over all stages and attempts, and what runs then."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from pathlib import Path

import pytest

from nanochat import checkpoint, console
from nanochat.console import INTERRUPTED, LimitReachedError, UserError
from nanochat.metrics import MetricsWriter, read_metrics, training_file
from nanochat.pipeline import SpeedrunConfig, speedrun
from nanochat.pipeline.progress import StageLog
from nanochat.pipeline.spending import Bill
from nanochat.pipeline.stages import Plan, Stage
from tests.hub.backing import begin_run, make_step

module = sys.modules["nanochat.pipeline.speedrun"]
WAITS = "import sys, time\nfrom pathlib import Path\nran = Path(sys.argv[1])\n"
WAITS += "with ran.open('a') as f: print(*sys.argv[2:], file=f)\n"
WAITS += "if sys.argv[2] == 'base_train' and not (ran.parent / 'quick').exists(): time.sleep(100)\n"


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stage that is quick, one that waits until somebody ends it, and one more. Says what was started."""

    def command(stage: Stage, plan: Plan, resume: bool) -> list[str]:
        more = ["--resume"] if resume else []
        return [sys.executable, "-c", WAITS, str(tmp_path / "ran"), stage.name, *more]

    stages = (
        Stage("dataset", ()),
        Stage("base_train", (), "base_checkpoints/d1/step_*/manifest.json", resumable=True, trains="base"),
        Stage("report", ()),
    )
    monkeypatch.setattr(module, "_command", command)
    monkeypatch.setattr(module, "resolve", lambda config, choices: Plan(stages, 1, "a test", "tinyworld", "d1"))
    monkeypatch.setattr(module, "farewell", lambda *a: None)
    return tmp_path / "ran"


def lines(ran: Path) -> list[str]:
    return ran.read_text().splitlines()


def code_of(config: SpeedrunConfig) -> int:
    with pytest.raises(SystemExit) as ended:
        console.run_command(SpeedrunConfig, lambda _: speedrun(config), argv=[], resumable=True)
    return int(ended.value.code or 0)


@pytest.fixture
def limited() -> SpeedrunConfig:
    """Reached as soon as a stage runs for a while: 0.3 s at 36,000 dollars an hour."""
    return SpeedrunConfig(price_per_hour=36_000.0, max_dollars=3.0)


def test_a_limit_ends_the_stage_with_75_and_begins_no_other(
    ran: Path, limited: SpeedrunConfig, base: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code_of(limited) == INTERRUPTED
    assert lines(ran) in (["dataset", "base_train"], ["dataset"])  # a slow machine needs as long for the first
    said = capfd.readouterr()
    assert "--max-dollars=3 is reached: so far this run has taken" in said.err and "s and $" in said.err
    assert "Go on by the same command with a higher --max-dollars." in said.err
    before = len(lines(ran))
    assert code_of(limited) == INTERRUPTED  # nothing is begun, not even for a moment
    assert len(lines(ran)) == before
    spent = next(iter(StageLog().spent.values()))
    assert spent["dollars"] >= 3.0 and math.isclose(spent["dollars"], spent["seconds"] * 10)
    row = read_metrics(base / "runs/speedrun/metrics.jsonl")[-1]
    assert row["spent_dollars"] >= 3.0
    (ran.parent / "quick").touch()
    (base / "base_checkpoints/d1").mkdir(parents=True, exist_ok=True)
    limited.max_dollars = 1e9
    speedrun(limited)
    assert lines(ran)[-2:] == ["base_train --resume", "report"] or before == 1


def test_time_is_limited_the_same_way(ran: Path) -> None:
    config = SpeedrunConfig(max_hours=0.3 / 3600)
    with pytest.raises(LimitReachedError, match="--max-hours=.* is reached: so far this run has taken [0-9]+s"):
        speedrun(config)
    assert "report" not in lines(ran)


def test_the_command_on_finish_runs_when_a_limit_ended_the_run(
    ran: Path, limited: SpeedrunConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And again when the same command finds the limit reached: a pod that was started again must end, too."""
    limited.backup, limited.on_finish = str(tmp_path / "far"), f"echo x >> {tmp_path / 'ended'}"
    for n in (1, 2):
        assert code_of(limited) == INTERRUPTED
        assert (tmp_path / "ended").read_text() == n * "x\n"
    assert json.loads((tmp_path / "far/speedrun.json").read_text())["spent"] == StageLog().spent
    assert "the backup is finished first" in capfd.readouterr().out


def test_a_stage_that_hangs_does_not_keep_the_machine(
    ran: Path, limited: SpeedrunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open(sys.argv[1], 'w'); "
    hangs += "time.sleep(100)"
    monkeypatch.setattr(module, "_command", lambda *a: [sys.executable, "-c", hangs, str(ran)])
    monkeypatch.setattr(module, "GRACE", 0.2)
    monkeypatch.setattr(Bill, "left", property(lambda bill: 0.0 if ran.exists() else 0.1))
    limited.backup, limited.on_finish = str(tmp_path / "far"), f"touch {tmp_path / 'ended'}"
    assert code_of(limited) == INTERRUPTED
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("when", ["in this attempt", "in a killed one"])
def test_nothing_ends_the_machine_when_steps_are_not_saved(
    ran: Path, limited: SpeedrunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """What an earlier attempt lost is no reason for the machine to stay."""
    limited.backup, limited.on_finish = str(tmp_path / "far"), f"touch {tmp_path / 'ended'}"
    begin_run()
    make_step(100)
    now = when == "in this attempt"
    unsaved = MetricsWriter(training_file("base", "d1"))
    if not now:
        unsaved.write("step", step=101)

    def left(bill: Bill) -> float:
        if not ran.exists() or "base_train" not in lines(ran):
            return 0.3
        if now:
            unsaved.write("step", step=101)
        return 0.0

    monkeypatch.setattr(checkpoint, "set_aside", lambda *a: None)
    monkeypatch.setattr(Bill, "left", property(left))
    assert code_of(limited) == (2 if now else INTERRUPTED)
    assert (tmp_path / "ended").exists() != now


def test_earlier_attempts_count_at_their_price() -> None:
    spent: dict[str, float] = {}
    saves = []

    def attempt(seconds: float, **limits: float) -> Bill:
        bill = Bill(spent, lambda: saves.append(dict(spent)), **limits)
        bill._last -= seconds
        bill.note()
        return bill

    attempt(1800, price_per_hour=2.0)
    attempt(3600, price_per_hour=24.0)
    bill = attempt(0, price_per_hour=10.0, max_dollars=30.0)
    assert bill.dollars == pytest.approx(25.0, abs=0.01) and bill.left == pytest.approx(1800, abs=1)
    attempt(3600)  # without a price: counts by that of the next attempt which has one
    bill = attempt(0, price_per_hour=4.0, max_dollars=30.0, max_hours=2.6)
    assert bill.dollars == pytest.approx(29.0, abs=0.01) and bill.left == pytest.approx(360, abs=1)
    assert bill.reached() is None
    bill = attempt(400, price_per_hour=4.0, max_dollars=30.0, max_hours=2.6)
    assert "--max-hours=2.6 is reached" in str(bill.reached()) and len(saves) == 6


def test_a_full_disk_ends_no_stage(ran: Path) -> None:
    """What was spent is noted each minute, and a night of training must not hang on that."""
    saves = []

    def full() -> None:
        saves.append(1)
        raise UserError("cannot write speedrun.json: No space left on device")

    bill = Bill({}, full, max_hours=0.2 / 3600)
    with pytest.raises(LimitReachedError):
        module.run_stage(Stage("base_train", ()), Plan((), 1, "a test", "tinyworld", "d1", bill=bill), False, 1)
    assert saves and bill.seconds >= 0.2


@pytest.mark.parametrize("spent", ["many", -5, True, None, float("nan"), float("inf"), [1]])
def test_what_a_file_says_of_money_is_believed_only_if_it_can_be(spent: object, base: Path) -> None:
    bill = Bill({"seconds": spent, "dollars": spent}, lambda: None, max_hours=1.0)  # type: ignore[dict-item]
    bill.note()
    assert 0 <= bill.seconds < 60 and bill.reached() is None
    base.mkdir(exist_ok=True)
    values = {"version": 2, "started": {"x": "y"}, "done": {}, "choices": {}, "spent": {"run": spent, "other": {}}}
    (base / "speedrun.json").write_text(json.dumps(values))
    assert StageLog().started == {"x": "y"}  # no reason to do anything again
    log = StageLog()
    log.spent = {"run": {"seconds": 12.5}}
    log.save()
    assert StageLog().spent == {"run": {"seconds": 12.5}}


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        ({"max_dollars": 5.0}, "--max-dollars needs to know what an hour costs. Add --price-per-hour"),
        ({"max_dollars": -5.0, "price_per_hour": 1.0}, "--max-dollars is -5"),
        ({"max_hours": float("nan")}, "--max-hours is nan"),
        ({"max_hours": float("inf")}, "--max-hours is inf"),
        ({"price_per_hour": -1.0}, "--price-per-hour is -1"),
    ],
)
def test_limits_that_cannot_be(wish: dict[str, float], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        speedrun(SpeedrunConfig(dry_run=True, **wish))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_real_training_is_saved_at_the_limit_and_goes_on_with_a_higher_one(
    tiny_run: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    base.mkdir()
    for name in ("tokenizer", "data"):
        shutil.copytree(tiny_run / name, base / name)
    args = (
        "--depth=1", "--dataset=tinyworld", "--device=cpu", "--dtype=float32", "--compile=off", "--max_seq_len=64",
        "--total_batch_size=1024", "--num_iterations=600", "--eval_tokens=1024", "--save_every=-1", "--model_tag=d1",
    )  # fmt: skip
    stages = (
        Stage("base_train", args, "base_checkpoints/d1/step_*/manifest.json", resumable=True, trains="base"),
        Stage("base_loss", ("--dataset=tinyworld", "--model_tag=d1", "--device=cpu")),
    )  # fmt: skip
    monkeypatch.setattr(module, "resolve", lambda config, choices: Plan(stages, 1, "a test", "tinyworld", "d1"))
    monkeypatch.setattr(module, "farewell", lambda *a: None)
    file = training_file("base", "d1")

    def some_steps(more: int) -> property:
        def left(bill: Bill) -> float:
            rows = read_metrics(file) if file.exists() else []
            return 0.0 if max((r.get("step", 0) for r in rows), default=0) >= more else 0.2

        return property(left)

    flag = tmp_path / "ended"
    wish = SpeedrunConfig(
        max_dollars=1.0, price_per_hour=1.0, backup=str(tmp_path / "far"), on_finish=f"echo x >> {flag}"
    )
    monkeypatch.setattr(Bill, "left", some_steps(5))
    began = time.monotonic()
    assert code_of(wish) == INTERRUPTED
    first = max(checkpoint.steps("base", "d1"))
    assert first >= 5 and flag.read_text() == "x\n"
    assert (tmp_path / "far" / "base_checkpoints" / "d1" / f"step_{first:06d}" / "manifest.json").exists()
    shutil.rmtree(base / "base_checkpoints")  # the pod is gone; another one gets what was backed up
    shutil.copytree(tmp_path / "far" / "base_checkpoints", base / "base_checkpoints")
    monkeypatch.setattr(Bill, "left", property(lambda bill: math.inf))
    wish.max_dollars = 100.0
    speedrun(wish)
    assert f"at step {first} of 600" in capfd.readouterr().out
    assert max(checkpoint.steps("base", "d1")) == 600 and flag.read_text() == "x\nx\n"
    [spent] = StageLog().spent.values()
    assert 0 < spent["seconds"] < time.monotonic() - began
    assert spent["dollars"] == pytest.approx(spent["seconds"] / 3600)
