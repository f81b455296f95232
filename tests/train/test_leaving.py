"""Whatever is going on, a signal leaves a whole checkpoint behind, and the same command goes on from it."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nanochat import checkpoint, metrics
from nanochat.console import UserError
from nanochat.metrics import read_metrics, training_file
from nanochat.optim import Optimizer
from nanochat.train import BaseConfig, tracker, train_base
from nanochat.train import run as run_module
from nanochat.train.saving import Saver
from nanochat.train.supervised import Supervised

ROOT = Path(__file__).parents[2]
VALUES: dict[str, Any] = {
    "depth": 1,
    "dataset": "tinyworld",
    "max_seq_len": 64,
    "total_batch_size": 256,
    "num_iterations": 10,
    "device": "cpu",
    "dtype": "float32",
    "compile": "off",
    "eval_every": -1,
    "eval_tokens": 1024,
    "save_every": -1,
    "model_tag": "x",
}

# Train with something patched in, and tell by files what goes on. argv: the patch, a folder, flags.
PROGRAM = """
import hashlib, os, subprocess, sys, time
from pathlib import Path

patch, folder = sys.argv.pop(1), Path(sys.argv.pop(1))

from nanochat.console import run_command
from nanochat.train import BaseConfig, train_base, stopping
from nanochat.train.run import Run
from nanochat.train.saving import Saver
from nanochat.train.step import Stepper
from nanochat.train.supervised import Supervised

stopping.PATIENCE, stopping.LIMIT = 0.5, 4.0
state = {"steps": 0}
step, write, evaluate = Stepper._gradients, Saver._write, Supervised.evaluate

def tell(what):
    (folder / what).touch()

def gradients(self, *given):
    state["steps"] += 1
    if state["steps"] == 4:
        if patch == "step":
            tell("ready")
            time.sleep(60)
        if patch == "c":  # where Python's handlers do not run
            tell("ready")
            hashlib.pbkdf2_hmac("sha256", b"", b"", 50_000_000)
        if patch == "compiler":  # that a terminal's Ctrl-C ends, too
            child = subprocess.Popen(["sleep", "60"])
            tell("ready")
            if child.wait():
                raise RuntimeError("the compiler failed")
    return step(self, *given)

def slow(self, number, state, *given):
    if patch == "save" or state.step == 10:
        tell("ready")
        time.sleep(2)
    return write(self, number, state, *given)

def stuck(self, *given):
    tell("ready")
    time.sleep(60)

def validate(self, on_batch):
    tell("ready")
    for _ in range(600):
        on_batch(1)
        time.sleep(0.1)
    return evaluate(self, on_batch)

Stepper._gradients = gradients
if patch in ("save", "last save"):
    Saver._write = slow
if patch == "disk":
    Saver._write = stuck
if patch == "validation":
    Supervised.evaluate = validate
run_command(BaseConfig, train_base, resumable=True)
"""


@pytest.fixture
def base(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base dir with the shared run's text and tokenizer."""
    folder = tmp_path / "base"
    for name in ("tokenizer", "data"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(tiny_run / name)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    return folder


def weights(tag: str, stage: str = "base") -> dict[str, torch.Tensor]:
    return load_file(checkpoint.find(stage, tag) / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def raw_steps(tag: str) -> list[int]:
    """Steps in the order of the file's lines."""
    rows = (line for line in training_file("base", tag).read_text().splitlines() if '"kind": "step"' in line)
    return [int(line.split('"step": ')[1].split(",")[0]) for line in rows]


def flags(values: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def signalled(tmp_path: Path, patch: str, number: int, again: float = 0.0, **given: Any) -> tuple[int, str, float]:
    """Exit code, output and seconds of a run that got a signal at the moment that the patch makes.

    The whole process group gets it, as from a terminal. again: seconds after which it is sent once more.
    """
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(program), patch, str(tmp_path), *flags({**VALUES, **given})],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
            time.sleep(0.02)
        began = time.monotonic()
        os.killpg(process.pid, number)
        if again:
            time.sleep(again)
            os.killpg(process.pid, number)
        out = process.communicate(timeout=60)[0]
        return process.returncode, out, time.monotonic() - began
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("patch", "number", "given", "saved"),
    [
        ("step", signal.SIGTERM, {}, 3),  # a step that does not end: what was before it
        pytest.param("compiler", signal.SIGINT, {}, 3, marks=pytest.mark.slow),
        pytest.param("c", signal.SIGTERM, {}, 3, marks=pytest.mark.slow),
        pytest.param("last save", signal.SIGTERM, {}, 10, marks=pytest.mark.slow),
        pytest.param("save", signal.SIGTERM, {"save_every": 2}, 0, marks=pytest.mark.slow),
        pytest.param("validation", signal.SIGTERM, {"eval_every": 4}, 4, marks=pytest.mark.slow),
        pytest.param("validation", signal.SIGINT, {}, 10, marks=pytest.mark.slow),  # the last one, after the last step
    ],
)
def test_a_signal_at_any_moment(
    base: Path, tmp_path: Path, patch: str, number: int, given: dict[str, Any], saved: int
) -> None:
    code, out, seconds = signalled(tmp_path, patch, number, **given)
    assert code == 75 and seconds < 25, out
    assert "to go on, run the same command again: " in out and "Traceback" not in out
    [step] = list(checkpoint.steps("base", "x"))[-1:]
    assert step == saved or (not saved and step >= 2)
    checkpoint.verify(checkpoint.find("base", "x"))
    config = BaseConfig(**{**VALUES, **given})
    train_base(config)
    assert not checkpoint.steps("base", "x.previous-1")
    assert raw_steps("x") == list(range(1, 11))
    evaluated = [row["step"] for row in read_metrics(training_file("base", "x")) if row["kind"] == "eval"]
    assert evaluated == ([4, 8, 10] if "eval_every" in given else [10])
    train_base(BaseConfig(**{**VALUES, **given, "model_tag": "whole"}))
    assert same(weights("x"), weights("whole"))


def test_a_second_ctrl_c_leaves_at_once(base: Path, tmp_path: Path) -> None:
    code, out, seconds = signalled(tmp_path, "disk", signal.SIGINT, again=1.2, save_every=2)
    assert code == 75 and seconds < 3, out
    assert "Leaving at once" in out and not checkpoint.steps("base", "x")


@pytest.mark.slow
def test_a_hanging_disk_does_not_keep_a_run_from_leaving(base: Path, tmp_path: Path) -> None:
    code, out, seconds = signalled(tmp_path, "disk", signal.SIGTERM, save_every=2)
    assert code == 75 and 3 < seconds < 12, out
    assert "stopped at step" in out and "there is no checkpoint yet" in out


def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Callable[[], None]:
    """Send SIGTERM to this process before a step; returns a function that takes that back."""
    real = Supervised.take

    def take(self: Any, stepper: Any, given: Any, valid: int, schedule: Any, s: Any) -> Any:
        if s.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, stepper, given, valid, schedule, s)

    monkeypatch.setattr(Supervised, "take", take)
    return lambda: monkeypatch.setattr(Supervised, "take", real)


def test_the_same_command_goes_on_and_fresh_starts_anew(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = stopped_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        train_base(BaseConfig(**VALUES))
    again()
    [stopped] = checkpoint.steps("base", "x")
    train_base(BaseConfig(**{**VALUES, "fresh": True}))
    assert list(checkpoint.steps("base", "x.previous-1")) == [stopped]
    assert raw_steps("x") == list(range(1, 11))
    train_base(BaseConfig(**VALUES))  # finished: another run
    assert list(checkpoint.steps("base", "x.previous-2")) == [10]


def test_an_update_is_not_given_up(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the step before it is saved: of several ranks, some may have ended that step already."""
    real = Optimizer.step

    def step(optimizer: Any, schedule: Any, number: int) -> None:
        if number == 3:  # counted from 0
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        real(optimizer, schedule, number)

    monkeypatch.setattr(Optimizer, "step", step)
    save = run_module.Run.save
    monkeypatch.setattr(run_module.Run, "save", lambda run: (save(run), run.saver.wait()))
    with pytest.raises(KeyboardInterrupt):
        train_base(BaseConfig(**{**VALUES, "save_every": 1}))
    assert max(checkpoint.steps("base", "x")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"num_iterations": 12}, {"seed": 1}])
def test_an_interrupted_run_of_other_length_or_settings_is_kept(
    base: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    again = stopped_at(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        train_base(BaseConfig(**VALUES))
    again()
    train_base(BaseConfig(**{**VALUES, **change}))
    assert checkpoint.steps("base", "x.previous-1") and "starting anew" in capsys.readouterr().out


def test_fresh_and_resume_contradict(base: Path) -> None:
    with pytest.raises(UserError, match="--fresh starts anew"):
        train_base(BaseConfig(**VALUES, fresh=True, resume=True))


@pytest.mark.slow
def test_saves_do_not_wait_for_the_disk(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps go on while the first save is being written; the next one then is of the step that it begins at."""
    held, done = threading.Event(), [0]
    write, take = Saver._write, Supervised.take

    def slow(self: Any, number: int, state: Any, *given: Any) -> None:
        if number == 1:
            assert held.wait(30)
        write(self, number, state, *given)

    def count(self: Any, *given: Any) -> Any:
        done[0] += 1
        if done[0] == 4:
            held.set()
        return take(self, *given)

    monkeypatch.setattr(Saver, "_write", slow)
    monkeypatch.setattr(Supervised, "take", count)
    train_base(BaseConfig(**{**VALUES, "save_every": 1, "keep": 99}))
    steps = list(checkpoint.steps("base", "x"))
    assert steps[0] == 1 and steps[1] >= 4 and steps[-1] == 10
    assert [row["step"] for row in read_metrics(training_file("base", "x")) if row["kind"] == "save"] == steps
    train_base(BaseConfig(**{**VALUES, "model_tag": "once"}))
    assert same(weights("x"), weights("once"))


@pytest.mark.slow
def test_what_is_saved_is_the_step_it_began_at(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights change while they are written; the copy does not: from that save the run ends with the same bits."""
    write, take, changed = Saver._write, Supervised.take, threading.Event()

    def late(self: Any, number: int, state: Any, *given: Any) -> None:
        assert changed.wait(30)
        write(self, number, state, *given)

    def after(self: Any, stepper: Any, step: Any, valid: int, schedule: Any, s: Any) -> Any:
        taken = take(self, stepper, step, valid, schedule, s)
        if s.step + 1 == 5:
            changed.set()
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "_write", late)
        patch.setattr(Supervised, "take", after)
        train_base(BaseConfig(**{**VALUES, "save_every": 3, "keep": 99}))
    for step, folder in checkpoint.steps("base", "x").items():
        if step != 3:
            shutil.rmtree(folder)
    train_base(BaseConfig(**{**VALUES, "save_every": 3}))
    train_base(BaseConfig(**{**VALUES, "model_tag": "whole"}))
    assert same(weights("x"), weights("whole"))


def test_a_checkpoint_precedes_every_evaluation(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    real = run_module.Run.evaluate

    def evaluate(self: Any) -> None:
        seen.append((self.state.step, self.saver.begun))
        real(self)

    monkeypatch.setattr(run_module.Run, "evaluate", evaluate)
    train_base(BaseConfig(**{**VALUES, "eval_every": 3}))
    assert seen == [(3, 3), (6, 6), (9, 9), (10, 10)]


BROKEN = """
class Run:
    url, step = "here", 0
    def define_metric(self, *given, **more): pass
    def log(self, *given, **more): raise ConnectionError("the server is gone")
def Settings(**given): pass
def init(**given): return Run()
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["evaluation", "tracker", "metrics", "log"])
def test_nothing_beside_the_training_ends_it(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    if what == "evaluation":
        monkeypatch.setattr(Supervised, "evaluate", lambda self, on_batch: 1 / 0)
    if what == "tracker":
        (base / "broken").mkdir()
        (base / "broken" / "wandb.py").write_text(BROKEN)
        monkeypatch.syspath_prepend(base / "broken")
        monkeypatch.setenv("PYTHONPATH", f"{base / 'broken'}:{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setattr(tracker, "FAREWELL", 60.0)
        monkeypatch.setattr(tracker, "UNHEARD", 60.0)
        monkeypatch.setenv("WANDB_RUN", "night")
    if what == "metrics":
        calls = [0]

        def opened(*given: Any, **more: Any) -> Any:
            calls[0] += 1
            if 4 <= calls[0] <= 6:
                raise OSError(28, "No space left on device")
            return open(*given, **more)

        monkeypatch.setattr(metrics, "open", opened, raising=False)
    if what == "log":
        monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))
    state = train_base(BaseConfig(**{**VALUES, "eval_every": 3}))
    assert state.step == 10 and raw_steps("x") == list(range(1, 11))
    told = capsys.readouterr().err
    expected = {
        "evaluation": "base could not be evaluated at step 3: division by zero",
        "tracker": "Weights & Biases failed, logging to metrics.jsonl only: the server is gone",
        "metrics": "No space left on device: training goes on",
    }
    assert expected.get(what, "") in told


def test_a_failed_save_is_told_and_tried_again(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, full = checkpoint.folder.replace_folder, [True]

    def replace_folder(path: Path) -> Any:
        if full[0] and path.name == "step_000003":
            raise OSError(28, "No space left on device")
        return real(path)

    monkeypatch.setattr(checkpoint.folder, "replace_folder", replace_folder)
    train_base(BaseConfig(**{**VALUES, "save_every": 3, "keep": 9}))
    assert 3 not in checkpoint.steps("base", "x") and 10 in checkpoint.steps("base", "x")
    assert "a checkpoint could not be written" in capsys.readouterr().err
    monkeypatch.setattr(checkpoint.folder, "replace_folder", lambda path: 1 / 0)
    with pytest.raises(UserError, match="cannot save"):
        train_base(BaseConfig(**{**VALUES, "model_tag": "y"}))
    assert not checkpoint.steps("base", "y")


@pytest.mark.slow
def test_what_is_kept(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest two, every fifth, the best one, and the last before the warm-down."""
    bpb = iter([9.0, 8.0, 1.0, 7.0, *[6.0] * 9])
    monkeypatch.setattr(Supervised, "scores", lambda self, sums: {"val_bpb": next(bpb)})
    values = {**VALUES, "num_iterations": 20, "eval_every": 2, "save_every": 1, "keep_every": 5, "keep_best": True}
    real = run_module.Run.save
    monkeypatch.setattr(run_module.Run, "save", lambda run: (run.saver.wait(), real(run), run.saver.wait()))
    state = train_base(BaseConfig(**values))
    assert state.steady == 8
    assert list(checkpoint.steps("base", "x")) == [5, 6, 8, 10, 15, 19, 20]
    assert read_metrics(training_file("base", "x"))[-1]["val_bpb"] == 6.0


@pytest.mark.slow
def test_a_validation_without_a_number_is_not_the_best(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervised, "scores", lambda self, sums: {"val_bpb": float("nan")})
    train_base(BaseConfig(**{**VALUES, "eval_every": 3, "keep_best": True}))
    assert list(checkpoint.steps("base", "x")) == [9, 10]


@pytest.mark.slow
def test_pinned_steps_wait_for_the_save_in_flight(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Saver._write
    monkeypatch.setattr(Saver, "_write", lambda *given: (time.sleep(0.3), write(*given)))
    state = train_base(BaseConfig(**{**VALUES, "num_iterations": 20, "save_every": 1, "keep": 1, "keep_every": 6}))
    assert list(checkpoint.steps("base", "x")) == [6, state.steady, 12, 18, 20]


@pytest.mark.slow
def test_minutes_are_a_schedule_too(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run_module.Run.save
    monkeypatch.setattr(run_module.Run, "save", lambda run: (real(run), run.saver.wait()))
    train_base(BaseConfig(**{**VALUES, "save_minutes": 1e-9, "keep": 99}))
    assert list(checkpoint.steps("base", "x")) == list(range(1, 11))


@pytest.mark.parametrize(
    "damage", ["flip", *(pytest.param(how, marks=pytest.mark.slow) for how in ("all", "cut", "state", "manifest"))]
)
def test_damaged_checkpoints_are_named_and_passed_over(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    again = stopped_at(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        train_base(BaseConfig(**{**VALUES, "save_every": 2}))
    again()
    have = checkpoint.steps("base", "x")
    newest = max(have)
    for step in have if damage == "all" else [newest]:
        folder = have[step]
        name = {"state": "train_state.json", "manifest": "manifest.json"}.get(damage, "model.safetensors")
        data = bytearray((folder / name).read_bytes())
        data[-9] ^= 4
        (folder / name).write_bytes(data[:-1] if damage == "cut" else b"{" if damage == "manifest" else data)
    capsys.readouterr()
    train_base(BaseConfig(**{**VALUES, "save_every": 2}))
    said = capsys.readouterr()
    assert f"step_{newest:06d}" in said.err and "looking for an earlier checkpoint" in said.err
    assert raw_steps("x") == list(range(1, 11))
    if damage == "all":
        assert checkpoint.steps("base", "x.previous-1")
    else:
        assert f"Resuming {have[sorted(have)[-2]]}" in said.out and "Kept the damaged checkpoint as" in said.out
        assert not checkpoint.steps("base", "x.previous-1")
    train_base(BaseConfig(**{**VALUES, "model_tag": "whole"}))
    assert same(weights("x"), weights("whole"))


@pytest.mark.slow
def test_a_finished_run_is_extended_from_before_its_warmdown(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**VALUES, "num_iterations": 20, "save_every": 10}
    longer = {**values, "num_iterations": 40, "extend": True}
    with pytest.raises(UserError, match="no base run x with these settings to extend"):
        train_base(BaseConfig(**longer))
    train_base(BaseConfig(**values))
    finished = weights("x")
    with pytest.raises(UserError, match="had 20 steps, and 20 are asked for"):
        train_base(BaseConfig(**values, extend=True))
    again = stopped_at(monkeypatch, 12)
    with pytest.raises(KeyboardInterrupt):
        train_base(BaseConfig(**longer))
    again()
    assert same(weights("x.previous-1"), finished)
    assert raw_steps("x.previous-1") == list(range(1, 21))
    state = train_base(BaseConfig(**longer))  # goes on where it was stopped
    assert (state.step, state.steps, state.steady) == (40, 40, 15)
    assert raw_steps("x") == list(range(1, 41)) and not checkpoint.steps("base", "x.previous-2")
    rates = {row["step"]: row["lr"] for row in read_metrics(training_file("base", "x")) if row["kind"] == "step"}
    assert all(rates[step] == 1.0 for step in range(8, 16)) and rates[40] < 0.1


@pytest.mark.slow
def test_a_run_is_never_extended_from_inside_its_warmdown(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted there, or with a damaged last checkpoint, it goes back to before it."""
    values = {**VALUES, "num_iterations": 20, "save_every": 5}
    longer = BaseConfig(**{**values, "num_iterations": 40}, extend=True)
    again = stopped_at(monkeypatch, 15)
    with pytest.raises(KeyboardInterrupt):
        train_base(BaseConfig(**values))
    again()
    train_base(longer)
    rates = [row["lr"] for row in read_metrics(training_file("base", "x")) if row["kind"] == "step"]
    assert all(a >= b for a, b in itertools.pairwise(rates[7:]))  # no second rise
    assert checkpoint.steps("base", "x.previous-1")


@pytest.mark.slow
def test_a_longer_run_pins_no_step_behind_its_warmdown(base: Path) -> None:
    values = {**VALUES, "save_every": 5}
    assert train_base(BaseConfig(**values)).steady == 5
    assert train_base(BaseConfig(**{**values, "num_iterations": 14}, resume=True)).steady == 5


def test_a_run_without_its_pinned_checkpoint_cannot_be_extended(base: Path) -> None:
    train_base(BaseConfig(**VALUES))  # save_every=-1 pins none
    with pytest.raises(UserError, match="no checkpoint from before its warm-down.*--resume in place of --extend"):
        train_base(BaseConfig(**{**VALUES, "num_iterations": 20}, extend=True))
    assert list(checkpoint.steps("base", "x")) == [10]


@pytest.mark.parametrize("swap", [True, False])
def test_a_kill_while_extending_loses_nothing(base: Path, monkeypatch: pytest.MonkeyPatch, swap: bool) -> None:
    """Between any two steps of the fork the tag has a checkpoint, or the next attempt finds one."""
    values = {**VALUES, "num_iterations": 20, "save_every": 10}
    train_base(BaseConfig(**values))
    if not swap:
        monkeypatch.setattr(checkpoint.folder, "exchange", lambda a, b: False)
    before = {p.name for p in (base / "base_checkpoints").iterdir()}
    checkpoint.fork("base", "x", 8)
    after = {p.name for p in (base / "base_checkpoints").iterdir()}
    assert after - before == {"x.previous-1"}
    assert list(checkpoint.steps("base", "x")) == [8] and 20 in checkpoint.steps("base", "x.previous-1")
    checkpoint.verify(checkpoint.find("base", "x"))
    assert os.stat(checkpoint.find("base", "x") / "model.safetensors").st_nlink == 2
