"""Stages run in order, are skipped when done, go on when interrupted, and fail in one clear line."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest

from nanochat import checkpoint, console, lock
from nanochat.console import UserError
from nanochat.corpus.info import CorpusInfo, ShardInfo
from nanochat.metrics import MetricsWriter, read_metrics, training_file
from nanochat.paths import write_json
from nanochat.pipeline import SpeedrunConfig, settings, speedrun
from nanochat.pipeline.progress import StageLog, fingerprints
from nanochat.pipeline.settings import Plan, Stage, resolve
from nanochat.synthetic.tinyworld import World, document

ROOT = Path(__file__).parents[2]
module = sys.modules["nanochat.pipeline.speedrun"]


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    return tmp_path / "base"


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three stages that write their arguments into a file, in place of the real ones."""
    ran = tmp_path / "ran"
    code = (
        "import sys, pathlib; p = pathlib.Path(sys.argv[1]); "
        "p.write_text((p.read_text() if p.exists() else '') + ' '.join(sys.argv[2:]) + '\\n'); "
        "(p.parent / 'base' / (sys.argv[2] + '-out')).touch(); "
        "sys.exit(int((p.parent / 'fail').read_text()) if sys.argv[2] == 'two' and (p.parent / 'fail').exists() else 0)"
    )
    monkeypatch.setattr(
        module,
        "_command",
        lambda stage, plan, resume: [
            sys.executable, "-c", code, str(ran), stage.name, *stage.args, *(["--resume"] if resume else []),
        ],
    )  # fmt: skip
    three = (Stage("one", (), "one-*"), Stage("two", ("x",), "two-*", resumable=True), Stage("three", ()))
    monkeypatch.setattr(module, "resolve", lambda config, choices: Plan(three, 1, "a test", "tinyworld", "d1"))
    monkeypatch.setattr(module, "farewell", lambda *a: None)
    return ran


def test_all_stages_run_once_and_are_skipped_after(stages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speedrun(SpeedrunConfig())
    speedrun(SpeedrunConfig())
    assert stages.read_text() == "one\ntwo x\nthree\n"
    assert capsys.readouterr().out.count("done already") == 3


def test_it_says_how_to_watch_and_opens_nothing(
    stages: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webbrowser.open", lambda *a, **k: pytest.fail("a browser was opened"))
    speedrun(SpeedrunConfig())
    said = re.search(r"Watch it meanwhile in another terminal: (.*) \(a page", capsys.readouterr().out)
    assert said
    MetricsWriter(training_file("base", "d1")).write("step", step=3, loss=1.5)
    monkeypatch.delenv("NANOCHAT_BASE_DIR")  # another terminal
    done = subprocess.run(["bash", "-c", f"{said[1]} --once"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "base-d1" in done.stdout and "1.5" in done.stdout, done.stderr


@pytest.mark.parametrize(("code", "error"), [(2, UserError), (1, SystemExit)])
def test_a_failed_stage_ends_the_run_and_the_next_run_resumes_it(stages: Path, code: int, error: type) -> None:
    (stages.parent / "fail").write_text(str(code))
    with pytest.raises(error):
        speedrun(SpeedrunConfig())
    (stages.parent / "fail").unlink()
    speedrun(SpeedrunConfig())
    assert stages.read_text() == "one\ntwo x\ntwo x --resume\nthree\n"


@pytest.mark.parametrize("code", [75, 130, 143])
def test_a_stopped_stage_is_neither_done_nor_failed(
    stages: Path, base: Path, code: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody stopped the stage alone: the speedrun ends, too, with 75, and the next one goes on with that stage."""
    (stages.parent / "fail").write_text(str(code))
    ended: list[int] = []

    def end(code: int) -> None:
        ended.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(console, "end", end)
    monkeypatch.setenv(console.CALLED_AS, "bash speedrun.sh")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit):
            console.run_command(SpeedrunConfig, speedrun, argv=[], resumable=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended == [75] and stages.read_text() == "one\ntwo x\n"
    assert "to go on, run the same command again: bash speedrun.sh" in capfd.readouterr().err
    rows = read_metrics(base / "runs/speedrun/metrics.jsonl")
    assert [row["status"] for row in rows] == ["done", "interrupted"]
    (stages.parent / "fail").unlink()
    speedrun(SpeedrunConfig())
    assert stages.read_text() == "one\ntwo x\ntwo x --resume\nthree\n"


def test_what_an_interrupted_stage_took_is_recorded(stages: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C: the report's hours are those of the bill, lost work included."""

    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_wait", interrupted)
        patch.setattr(module, "_end", lambda process: process.kill())
        with pytest.raises(KeyboardInterrupt):
            speedrun(SpeedrunConfig())
    [row] = read_metrics(base / "runs/speedrun/metrics.jsonl")
    assert (row["stage"], row["status"]) == ("one", "interrupted")
    assert row["seconds"] > 0 and row["spent_seconds"] > 0


def test_dry_run_starts_nothing(stages: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speedrun(SpeedrunConfig(dry_run=True))
    assert not stages.exists()
    assert "two         [to run]  python -m scripts.two x" in capsys.readouterr().out


def test_changed_settings_make_a_stage_and_all_after_it_stale() -> None:
    def stages(two: str, graded: str) -> tuple[Stage, ...]:
        return (Stage("one", (), "1"), Stage("two", (two,), "2"), Stage("grade", (graded,)), Stage("three", (), "3"))

    a, b, c = (fingerprints(stages(*x)) for x in (("x", "x"), ("y", "x"), ("x", "y")))
    assert [x == y for x, y in zip(a, b, strict=True)] == [True, False, False, False]
    assert [x == y for x, y in zip(a, c, strict=True)] == [True, True, False, True]  # nothing is made from a grade


def test_a_damaged_log_is_kept_and_said(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage("one", ())
    log = StageLog()
    log.start(stage, "f", ())
    log.finish(stage, "f")
    assert StageLog().is_done(stage, "f")
    (base / "speedrun.json").write_text("{half")
    assert not StageLog().is_done(stage, "f")
    assert (base / "speedrun.damaged.json").read_text() == "{half"
    assert "all stages will run again" in capsys.readouterr().err


def test_the_plan_names_every_stage_with_resolved_settings() -> None:
    plan = resolve(SpeedrunConfig(world_seed=7), {})
    assert [s.name for s in plan.stages] == [
        "dataset", "tok_train", "tok_eval", "base_train", "base_loss", "base_eval",
        "mid_train", "mid_eval", "chat_sft", "chat_eval", "report",
    ]  # fmt: skip
    shown = [s.display(plan.nproc) for s in plan.stages]
    assert "--world_seed=7" in shown[0]
    assert shown[3].startswith("python -m scripts.base_train --depth=4 --dataset=tinyworld")


def test_strict_changes_no_result(tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text('[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]\n')
    plain, strict = (resolve(SpeedrunConfig(data=(str(chats),), strict=strict), {}) for strict in (False, True))
    assert [stage.name for stage in strict.stages if "--strict" in stage.extra] == ["mid_train", "chat_sft"]
    assert fingerprints(plain.stages) == fingerprints(strict.stages)
    assert not any("--strict" in stage.extra for stage in resolve(SpeedrunConfig(strict=True), {}).stages)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight GPUs."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *a: "NVIDIA H100 80GB HBM3")


def test_gpus_mean_torchrun_and_the_full_size(cards: None) -> None:
    plan = resolve(SpeedrunConfig(), {})
    shown = {s.name: s.display(plan.nproc) for s in plan.stages}
    assert shown["base_train"] == (
        "torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- --depth=24 --arch=modern --dataset=climbmix "
        "--target_param_data_ratio=8 --total_batch_size=1048576 --fp8 --model_tag=d24"
    )
    assert shown["tok_train"] == "python -m scripts.tok_train --dataset=climbmix --vocab_size=32768"
    assert shown["dataset"] == "python -m nanochat.dataset --dataset=climbmix -n 120"


def test_a_night_of_an_earlier_version_goes_on(
    cards: None, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its default on GPUs was a d20, and for --depth 12 tokens per parameter: what it began is what the same command
    goes on with."""
    for wish, flags in ((SpeedrunConfig(), "20"), (SpeedrunConfig(depth=26), "12")):
        old = settings.earlier(wish)
        assert old is not None
        [train] = [stage for stage in old.stages if stage.name == "base_train"]
        shown = f"--depth={wish.depth or 20} --dataset=climbmix --target_param_data_ratio={flags}"
        assert shown in train.display(8)
        log = StageLog()
        log.start(train, fingerprints(old.stages)[old.stages.index(train)], ())
        again = module._begin(wish)[1]
        assert again.stages == old.stages and "An earlier version began" in capsys.readouterr().out
        anew = dataclasses.replace(wish, recipe="gpt2")
        assert module._begin(anew)[1].stages == resolve(anew, {}).stages != old.stages
        log.forget(train)
        assert module._begin(wish)[1].stages == resolve(wish, {}).stages


@pytest.mark.parametrize(("gpus", "ranks"), [(1, 1), (6, 4), (8, 8)])
def test_ranks_are_a_power_of_two(monkeypatch: pytest.MonkeyPatch, gpus: int, ranks: int) -> None:
    assert settings.rank_count("", gpus) == ranks
    assert settings.rank_count("3", gpus) == 3
    with pytest.raises(UserError, match="NPROC_PER_NODE is 'many'"):
        settings.rank_count("many", gpus)


def test_edited_inputs_are_new_inputs(tmp_path: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    stage = Stage("mid_train", (), "x", inputs=(chats, tmp_path / "later"))
    seen = [fingerprints((stage,))]
    for text in ("one", "two and more"):
        chats.write_text(text)
        seen += [fingerprints((stage,)), fingerprints((stage,))]
    assert seen[0] != seen[1] == seen[2] != seen[3] == seen[4]


def test_a_chosen_depth_is_kept_when_the_machine_measures_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = SpeedrunConfig(dataset=str(tmp_path), time_budget="8h")
    choices: dict[str, int] = {}
    tags = set()
    for peak in (1e11, 1e13):
        monkeypatch.setattr(settings, "peak_flops", lambda machine, peak=peak: peak)
        tags.add(resolve(wish, choices).tag)
    assert len(tags) == 1
    assert resolve(wish, {}).tag not in tags


def test_what_a_stage_left_is_looked_for_before_it_is_skipped(stages: Path, base: Path) -> None:
    speedrun(SpeedrunConfig())
    (base / "two-out").unlink()
    speedrun(SpeedrunConfig())
    assert stages.read_text() == "one\ntwo x\nthree\ntwo x --resume\nthree\n"


def write_model(stage: str, weights: str, step: int = 1) -> None:
    with checkpoint.create(stage, "d1", step) as folder:
        (folder / "tokenizer").mkdir()
        for name in ("meta.json", "ranks.tiktoken", "token_bytes.json", "tokenizer.json"):
            (folder / "tokenizer" / name).write_text("{}")
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(weights)


def hash_of(stage: str) -> str:
    return checkpoint.verify(checkpoint.find(stage, "d1")).hash


@pytest.fixture
def trainings(base: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Text, base model, its grade, mid model, in place of the real stages; the list says what has run, and how."""
    ran: list[str] = []

    def run(stage: Stage, plan: Plan, resume: bool, handle: int) -> float:
        ran.append(" ".join([stage.name, *stage.args, *stage.extra, *(["--resume"] if resume else [])]))
        if stage.trains:
            write_model(stage.trains, f"{stage.trains} of run {len(ran)}")
        elif stage.output:
            (base / "text").write_text(f"text of run {len(ran)}")
        return 1.0

    def plan(config: SpeedrunConfig, choices: dict[str, int]) -> Plan:
        stages = (
            Stage("dataset", (), "text"),
            Stage("base_train", (), "base_checkpoints/d1/step_*/manifest.json", resumable=True, trains="base"),
            Stage("base_eval", ()),
            Stage("mid_train", config.data, "mid_checkpoints/d1/step_*/manifest.json", resumable=True, trains="mid"),
            Stage("report", ()),
        )
        return Plan(stages, 1, "a test", "tinyworld", "d1")

    monkeypatch.setattr(module, "run_stage", run)
    monkeypatch.setattr(module, "resolve", plan)
    monkeypatch.setattr(module, "farewell", lambda *a: None)
    return ran


def test_a_later_stage_is_told_its_parent_by_hash(trainings: list[str]) -> None:
    speedrun(SpeedrunConfig())
    assert trainings == ["dataset", "base_train", "base_eval", f"mid_train --parent_hash={hash_of('base')}", "report"]


def by_hand(how: str) -> None:
    """Another base model comes under the tag: as a new run of it, or as the same one trained on."""
    if how == "another run":
        checkpoint.set_aside("base", "d1")
        write_model("base", "by hand")
    else:
        write_model("base", "trained on", step=2)


@pytest.mark.parametrize("how", ["another run", "trained on"])
def test_another_model_in_the_parents_place_stops_the_run(
    how: str, trainings: list[str], base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speedrun(SpeedrunConfig())
    first, mid = hash_of("base"), hash_of("mid")
    by_hand(how)
    del trainings[:]
    speedrun(SpeedrunConfig())  # nothing is to be made from it
    assert trainings == []
    with pytest.raises(
        UserError, match=f"the base model d1 is not the one .*it was {first}, now {hash_of('base')}"
    ) as e:
        speedrun(SpeedrunConfig(data=("new.jsonl",)))
    assert "--replaced=use" in str(e.value) and "--replaced=retrain" in str(e.value)
    aside = str(base / "base_checkpoints" / "d1.previous-1")
    assert (aside in str(e.value)) == (how == "another run")
    assert trainings == [] and hash_of("mid") == mid
    speedrun(SpeedrunConfig(data=("new.jsonl",), dry_run=True))
    assert "base_train  [replaced]" in capsys.readouterr().out


def test_another_model_is_used_when_that_is_asked_for(trainings: list[str]) -> None:
    """Also graded: the grade there was is another model's."""
    speedrun(SpeedrunConfig())
    by_hand("another run")
    del trainings[:]
    speedrun(SpeedrunConfig(data=("new.jsonl",), replaced="use"))
    assert trainings == ["base_eval", f"mid_train new.jsonl --parent_hash={hash_of('base')}", "report"]
    speedrun(SpeedrunConfig(data=("new.jsonl",)))  # it is the one meant from now on
    assert len(trainings) == 3


def test_the_parent_is_made_again_when_that_is_asked_for(trainings: list[str], base: Path) -> None:
    speedrun(SpeedrunConfig())
    by_hand("another run")
    ours = hash_of("base")
    del trainings[:]
    speedrun(SpeedrunConfig(data=("new.jsonl",), replaced="retrain"))
    assert [ran.split()[0] for ran in trainings] == ["base_train", "base_eval", "mid_train", "report"]
    assert "--resume" not in trainings[0]
    assert checkpoint.verify(checkpoint.find("base", "d1.previous-2")).hash == ours  # kept


@pytest.mark.parametrize("damage", ["model.safetensors", "manifest.json"])
@pytest.mark.parametrize("older", [True, False])
def test_a_damaged_parent_is_not_a_dead_end(
    damage: str, older: bool, trainings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It counts as replaced: by the older step that is found in its place, or by nothing."""
    speedrun(SpeedrunConfig())
    if older:
        newest = checkpoint.find("base", "d1")
        write_model("base", "older", step=0)
        assert checkpoint.find("base", "d1") == newest
    (checkpoint.steps("base", "d1")[1] / damage).write_text("{")
    new = SpeedrunConfig(data=("new.jsonl",))
    with pytest.raises(UserError, match="--replaced=retrain"):
        speedrun(new)
    speedrun(dataclasses.replace(new, dry_run=True))
    assert "[replaced]" in capsys.readouterr().out
    if older:
        speedrun(dataclasses.replace(new, replaced="use"))
        assert f"mid_train new.jsonl --parent_hash={hash_of('base')}" in trainings
    else:
        speedrun(dataclasses.replace(new, replaced="retrain"))
        assert trainings[-4:][0].startswith("base_train")


def test_a_training_by_hand_that_goes_on_is_not_moved_away(
    trainings: list[str], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)
    write_model("base", "by hand")
    with (
        lock.hold(checkpoint.lock_file("base", "d1"), "x"),
        pytest.raises(UserError, match="another training of base d1"),
    ):
        speedrun(SpeedrunConfig())
    assert checkpoint.steps("base", "d1") and not checkpoint.steps("base", "d1.previous-1")


def test_other_text_in_its_place_is_not_trained_on(trainings: list[str], base: Path) -> None:
    """The same for whatever a stage is made from; what nobody needs any more may change."""
    speedrun(SpeedrunConfig())
    (base / "text").write_text("other")
    speedrun(SpeedrunConfig(data=("new.jsonl",)))  # only the base model was made from it
    shutil.rmtree(base / "base_checkpoints")
    with pytest.raises(UserError, match="what dataset left is not the one"):
        speedrun(SpeedrunConfig(data=("new.jsonl",)))
    speedrun(SpeedrunConfig(data=("new.jsonl",), replaced="use"))
    assert trainings[-4].startswith("base_train")


def test_downloaded_text_is_fetched_again_on_a_new_machine(
    trainings: list[str], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restored base dir has only its description. What was made from it stays as it is."""
    stages = module.resolve(SpeedrunConfig(), {}).stages
    monkeypatch.setattr(module, "resolve", lambda *a: Plan(stages, 1, "a test", "climbmix", "d1"))
    speedrun(SpeedrunConfig())
    shards = tuple(ShardInfo(f"shard_{n:05d}.parquet", 1, 1, 1) for n in range(2))
    place = base / "data" / "climbmix"
    write_json(place / "meta.json", CorpusInfo("climbmix", "x/y", place, shards).to_json())
    del trainings[:]
    speedrun(SpeedrunConfig())  # all is done: nobody reads it
    assert trainings == []
    shutil.rmtree(base / "base_checkpoints")
    speedrun(SpeedrunConfig())
    assert [ran.split()[0] for ran in trainings] == ["dataset", "base_train", "base_eval", "mid_train", "report"]
    for shard in shards:
        (place / shard.file).touch()
    shutil.rmtree(base / "base_checkpoints")
    del trainings[:]
    speedrun(SpeedrunConfig())
    assert trainings[0].startswith("base_train")


def test_a_log_without_hashes_is_taken_up(trainings: list[str], base: Path) -> None:
    """Version 1, of before: what is there counts as what was made."""
    speedrun(SpeedrunConfig())
    log = json.loads((base / "speedrun.json").read_text())
    assert log.pop("version") == 2 and set(log.pop("left")) == {"dataset", "base_train", "mid_train"}
    (base / "speedrun.json").write_text(json.dumps({"version": 1, **log}))
    by_hand("another run")
    del trainings[:]
    speedrun(SpeedrunConfig(data=("new.jsonl",)))
    assert trainings == [f"mid_train new.jsonl --parent_hash={hash_of('base')}", "report"]
    assert set(json.loads((base / "speedrun.json").read_text())["left"]) == {"dataset", "base_train", "mid_train"}


def test_a_log_of_tomorrow_is_left_alone(base: Path) -> None:
    base.mkdir()
    text = '{"version": 3, "more": "than this"}'
    (base / "speedrun.json").write_text(text)
    with pytest.raises(UserError, match="format version 3, this program reads 2. Upgrade nanochat"):
        StageLog()
    assert (base / "speedrun.json").read_text() == text


def test_two_speedruns_do_not_mix(stages: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 2.0)
    base.mkdir()
    with open(base / "speedrun.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another speedrun is at work"):
            speedrun(SpeedrunConfig())
    assert not stages.exists()


def test_commands_run_from_any_folder_and_under_torchrun() -> None:
    plan = Plan((), 2, "", "", "")
    stage = Stage("base_train", ("--depth=4",), torchrun=True, resumable=True, extra=("--run=x",))
    assert module._command(stage, plan, resume=True) == [
        sys.executable, "-m", "nanochat.pipeline.launch", "--standalone", "--nproc_per_node=2",
        "-m", "nanochat.commands.base_train", "--", "--depth=4", "--run=x", "--resume",
    ]  # fmt: skip
    assert module._command(Stage("tok_train", ()), plan, False) == [sys.executable, "-m", "nanochat.commands.tok_train"]
    data = Stage("dataset", ("-n", "8"), module="nanochat.dataset")
    assert module._command(data, plan, False) == [sys.executable, "-m", "nanochat.dataset", "-n", "8"]


def test_a_budget_decides_the_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    monkeypatch.setattr(settings, "peak_flops", lambda machine: 3e11)
    depths = []
    for budget in ("1m", "20m", "8h"):
        plan = resolve(SpeedrunConfig(dataset=str(tmp_path / "texts"), time_budget=budget), {})
        base = next(s for s in plan.stages if s.name == "base_train")
        depths.append(int(base.args[0].removeprefix("--depth=")))
        assert f"--time_budget={budget}" in base.args
    assert depths == sorted(depths)
    assert depths[0] < depths[-1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"depth": -1}, "depth is -1"),
        ({"vocab_size": 20}, "vocabulary of 20"),
        ({"time_budget": "soon"}, "'soon' is no duration"),
        ({"dataset": "wikipedia"}, "unknown dataset 'wikipedia'"),
        ({"data": ("missing.jsonl",)}, "missing.jsonl"),
    ],
)
def test_impossible_wishes_are_refused(bad: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(SpeedrunConfig(**bad), {})


@pytest.mark.slow
def test_a_real_run_survives_a_kill_in_every_stage_and_ends_in_a_conversation(base: Path, tmp_path: Path) -> None:
    """Own text, one layer; killed (SIGKILL, the whole group) after a while, again and again, until it is through."""
    world = World(3)
    text = "\n\n".join(document(world, 0, k) for k in range(2000))
    (tmp_path / "book.txt").write_text(text)
    command = [
        sys.executable, "-m", "nanochat", "speedrun", "--dataset", str(tmp_path / "book.txt"),
        "--depth=1", "--vocab-size=400", "--time-budget=8s",
    ]  # fmt: skip
    kills = 0
    for patience in (3, 7, 11, 15, 19, 23, 27, 600):
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        began = time.monotonic()
        try:
            out, _ = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            if kills % 2:  # the whole group, or the speedrun alone: its stage then saves, leaves, and holds the lock
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.communicate()
            kills += 1
            continue
        assert process.returncode == 0, (out, time.monotonic() - began)
        break
    assert kills >= 2
    assert "A short conversation with your model" in out
    assert "scripts.chat_web" in out
    assert (base / "report" / "report.md").exists()
    done = json.loads((base / "speedrun.json").read_text())["done"]
    assert len(done) == 11
    checkpoint.verify(checkpoint.find("sft"))
