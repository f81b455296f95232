"""Errors are one line with exit code 2; progress is readable in a log."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanochat import console
from nanochat.console import Progress, UserError, command, duration, run_command


@dataclass
class Config:
    size: int = 3
    """a size"""


def run_with(error: BaseException | None) -> object:
    def run(config: Config) -> None:
        if error:
            raise error

    return run


def test_a_user_error_is_one_line_with_its_remedy_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(Config, run_with(UserError("the disk is full", "Free some space.")), argv=[])  # type: ignore[arg-type]
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: the disk is full. Free some space.\n"


def test_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("a\x1b[2Jb\rc\td\x9b31m\x07 " + os.fsdecode(b"\xff"))
    with pytest.raises(SystemExit):
        run_command(Config, run_with(UserError("no \x1b]0;owned\x07")), argv=[])  # type: ignore[arg-type]
    seen = capsys.readouterr()
    assert seen.out == "a\\x1b[2Jb\\x0dc\td\\x9b31m\\x07 \\udcff\n"
    assert seen.err == "error: no \\x1b]0;owned\\x07.\n"


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(Config, run_with(KeyboardInterrupt()), argv=[])  # type: ignore[arg-type]
    assert stop.value.code == 130


@pytest.mark.parametrize("argv", [["--size=5"], ["--", "--size=5"], ["--size", "5"]])
def test_flags_as_torchrun_hands_them_on(argv: list[str]) -> None:
    seen: list[int] = []
    run_command(Config, lambda c: seen.append(c.size), argv=argv)
    assert seen == [5]


def test_main_of_a_command_is_called_where_its_module_is_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def run(config: Config) -> None:
        seen.append(config.size)

    monkeypatch.setattr(sys, "argv", ["x", "--size=5"])
    main = command(Config, run)
    assert seen == []
    main()
    assert seen == [5]
    run.__module__ = "__main__"
    command(Config, run)
    assert seen == [5, 5]


def test_a_wrong_flag_is_exit_code_2() -> None:
    with pytest.raises(SystemExit) as stop:
        run_command(Config, run_with(None), argv=["--sise=5"])  # type: ignore[arg-type]
    assert stop.value.code == 2


def test_progress_in_a_log_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Progress(100, "base", "tokens") as bar:
        for i in range(10):
            clock[0] += 100 if i == 0 else 2  # the first step compiles
            bar.advance(10, loss="2.0")
    lines = capsys.readouterr().out.splitlines()
    assert 4 <= len(lines) <= 6
    assert lines[0] == "base  10%  10/100 tokens  1m40s eta ?  loss 2.0"
    assert lines[1] == "base  40%  40/100 tokens  1m46s eta 12s  loss 2.0"
    assert lines[-1] == "base 100%  100/100 tokens  1m58s eta 0s  loss 2.0" and lines.count(lines[-1]) == 1


def test_a_short_or_failed_piece_of_work_says_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(3, "base", "tokens") as bar:
        bar.advance(3)
    with contextlib.suppress(KeyError), Progress(3, "base", "tokens") as bar:
        bar._tell()
        bar.advance(1)
        raise KeyError
    assert capsys.readouterr().out == "base   0%  0/3 tokens  0s eta ?\n"


def test_a_reader_that_has_gone_does_not_stop_the_work() -> None:
    code = "from nanochat.console import say\nimport time\nfor i in range(50): say('x' * 9999)\nopen('done', 'w')"
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(__file__).parents[1])
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": root}
        )
        assert process.stdout
        process.stdout.close()
        process.wait(60)
        assert (Path(folder) / "done").exists()


def test_other_ranks_are_silent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    console.say("hello")
    console.warn("hello")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3s"), (65, "1m05s"), (3720, "1h02m")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_idle_threads_sleep_soon(given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    console.wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_the_command_that_goes_on_does_not_start_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(console.CALLERS_FLAGS, raising=False)
    monkeypatch.setattr("sys.argv", ["nanochat base_train", "--depth=4", "--fresh", "--run", "a b"])
    console.interrupted()
    assert capsys.readouterr().err.strip().endswith("again: nanochat base_train --depth=4 --run 'a b'")


def test_a_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--token", "hf_a", "--token=hf_b", "--data", "--token", "hf_c", "d"])
    assert console.typed() == ["--token", "TOKEN", "--token=TOKEN", "--data", "--token", "TOKEN", "d"]


def test_nothing_looks_for_garbage_when_a_command_ends() -> None:
    """After `import torch` that takes a second."""
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count()))"
    code += "; from nanochat.console import run_command; run_command(int, print, argv=['7'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, frozen = done.stdout.split()
    assert said == "7" and int(frozen) > 1000
