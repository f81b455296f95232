"""nanochat watch --plain: lines in a pipe, a panel on a terminal, and what cannot be watched."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from nanochat.metrics import MetricsWriter, training_file
from nanochat.serve.watch_course import Course
from nanochat.serve.watch_status import status
from nanochat.serve.watch_terminal import panel, sparkline, watch_plain


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MetricsWriter:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    writer = MetricsWriter(training_file("base", "d4"))
    writer.write("settings", stage="base", tag="d4", steps=3, machine="box\x1b[31m")
    for step in (1, 2):
        writer.write("step", step=step, loss=3.0 - step, tok_per_s=100.0, lr=0.5, seconds=float(step), memory=2e9)
    return writer


def watch(base: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nanochat", "watch", *args],
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_pipe_gets_a_line_for_each_look_until_the_run_ends(writer: MetricsWriter, tmp_path: Path) -> None:
    process = watch(tmp_path, "--plain", "--every=0.1")
    assert process.stdout
    first = process.stdout.readline()
    assert first.startswith("base-d4 running  step 2 of 3 (67%)") and "lr 50% of its peak" in first
    assert "memory 2.00 GB" in first and "eta 1" in first and "\x1b" not in first
    writer.write("step", step=3, loss=0.0, tok_per_s=100.0, seconds=3.0)
    writer.write("eval", step=3, val_bpb=0.5)
    writer.write("summary", seconds=3.0)
    rest, complaints = process.communicate(timeout=60)
    assert process.returncode == 0 and complaints == ""
    assert (
        rest.splitlines()[-1].startswith("base-d4 finished  step 3 of 3 (100%)") and "val_bpb 0.5000 at step 3" in rest
    )


def test_the_page_is_served_until_it_is_told_to_end(writer: MetricsWriter, tmp_path: Path) -> None:
    process = watch(tmp_path, "d4", "--port=0", "--price-per-hour=7200")
    assert process.stdout
    found = re.fullmatch(
        r"base-d4 is shown at (http://127.0.0.1:\d+)/train\?run=base-d4 \(Ctrl-C ends it\)\n", process.stdout.readline()
    )
    assert found
    assert httpx.get(f"{found[1]}/train/runs/base-d4", timeout=30).json()["status"]["cost"] == 4.0
    assert "watch/main.js" in httpx.get(found[1], follow_redirects=True, timeout=30).text
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=30)
    assert "Traceback" not in complaints


def test_what_cannot_be_watched_is_one_line_that_lists_what_can(writer: MetricsWriter, tmp_path: Path) -> None:
    for args, expected in (
        (("nope", "--plain"), "error: there is no run 'nope'. Choose one of: base-d4.\n"),
        (("--compare=nope",), "error: there is no run 'nope'. Choose one of: base-d4.\n"),
        (("--every=0",), "error: --every is 0 seconds. Give 0.1 to 3600.\n"),
    ):
        process = watch(tmp_path, *args)
        assert process.communicate(timeout=60) == ("", expected) and process.returncode == 2


def test_two_runs_and_their_alerts_once_each(
    writer: MetricsWriter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = MetricsWriter(training_file("sft", "d4"))
    other.write("step", step=1, loss=float("nan"), seconds=1.0)
    other.write("summary", seconds=1.0)
    courses = {name: Course(training_file(name, "d4")) for name in ("base", "sft")}
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        writer.write("step" if len(looks) < 3 else "summary", step=len(looks) + 2, loss=1.0, seconds=4.0)

    monkeypatch.setattr(time, "sleep", sleep)
    watch_plain(courses, 7.0)
    lines = capsys.readouterr().out.splitlines()
    assert looks == [7.0] * 3
    assert lines.count("sft alert: the loss was not a number at step 1") == 1
    assert [text[:20] for text in lines if text.startswith("base")] == [
        "base running  step 2", "base running  step 3", "base running  step 4", "base finished  step ",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [20, 80])
def test_the_panel_fits_the_terminal_and_cannot_steer_it(writer: MetricsWriter, width: int, capsys: Any) -> None:
    course = Course(writer.path)
    course.refresh()
    console = Console(width=width, force_terminal=False, color_system=None)
    console.print(panel([(status("base-d4", course), course)], width))
    text = capsys.readouterr().out
    assert "base-d4: running" in text and "\x1b" not in text
    assert all(len(line) <= width for line in text.splitlines())


def test_a_sparkline_has_the_shape_of_its_values() -> None:
    assert sparkline([3.0, 2.0, 1.0], 10) == "█▅▁" and sparkline([1.0] * 9, 3) == "▁▁▁" and sparkline([], 5) == ""
    assert len(sparkline(list(map(float, range(1000))), 78)) == 78


def test_watching_in_the_terminal_needs_no_torch() -> None:
    code = "import sys, nanochat.commands.watch, nanochat.serve.watch_terminal; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
