"""benchmarks.faults: a few runs lose nothing, and the campaign notices trainings that do lose something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.inject import Injector, Order
from benchmarks.faults.plan import KINDS, WORKS, kinds_of, make_plan

ROOT = Path(__file__).parents[2]
# The campaign forks, so it runs in a process of its own. %s: what is broken first.
PROGRAM = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
import shutil
from nanochat import checkpoint, metrics, paths
from nanochat.checkpoint import folder
from nanochat.train import run, saving, state
%s
from nanochat.console import run_command
from benchmarks.faults.__main__ import Config
from benchmarks.faults.__main__ import run as campaign
run_command(Config, campaign)
"""
BROKEN = {
    "a save that deletes the older ones first": (
        "killed in a save",
        """
real = checkpoint.create
def create(stage, tag, step, known=None):
    for older in checkpoint.steps(stage, tag).values():
        shutil.rmtree(older)
    return real(stage, tag, step, known)
checkpoint.create = create
""",
        {"checkpoints_kept"},
    ),
    "a resume that hashes nothing": (
        "flipped bit",
        """
real = checkpoint.verify
checkpoint.verify = lambda folder, hashes=True: real(folder, hashes=False)
""",
        {"newest_resumed", "weights_equal"},
    ),
    "metrics that a resume does not rewind": (
        "killed in a line of metrics",
        "run.rewind = lambda path, step: None",
        {"metrics_whole"},
    ),
    "an optimiser that starts anew": (
        "killed in a save",
        "state.load_optimizer = lambda folder, optimizer: None",
        {"weights_equal"},
    ),
}


def campaign(tmp_path: Path, broken: str, *flags: str) -> tuple[int, dict[str, Any], str]:
    """Its exit code, result and output."""
    file = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM % broken, "--json", str(file), *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert file.exists(), done.stdout
    return done.returncode, json.loads(file.read_text()), done.stdout


@pytest.mark.slow
def test_a_few_runs_lose_nothing(tmp_path: Path) -> None:
    code, result, out = campaign(tmp_path, "", "--runs", "2", "--seed", "3", "--works", "base")
    assert code == 0 and all(result["checks"].values()), out
    ours = result["ours"]
    assert ours["injected"] == ours["recovered"] > 1 and ours["lost"] == 0
    assert sum(row["injected"] for row in ours["kinds"].values()) == ours["injected"]
    assert ours["seconds_to_next_step"] > 0
    assert not list(tmp_path.glob("nanochat-faults-*"))


@pytest.mark.slow
def test_every_work_survives(tmp_path: Path) -> None:
    for work in WORKS:
        code, _, out = campaign(tmp_path, "", "--runs", "5", "--seed", "4", "--works", work)
        assert code == 0, out


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_training_is_found_out(tmp_path: Path, name: str) -> None:
    kind, broken, expected = BROKEN[name]
    code, result, out = campaign(tmp_path, broken, "--runs", "6", "--seed", "2", "--works", "base", "--kinds", kind)
    failed = {check for check, holds in result["checks"].items() if not holds}
    assert code == 1 and result["ours"]["lost"] > 0 and failed >= expected, out
    assert "again: python -m benchmarks.faults --seed 2 --only" in out and "planned: Fault(" in out


def test_one_seed_is_one_plan() -> None:
    plans = [make_plan(5, number) for number in range(300)]
    assert plans == [make_plan(5, number) for number in range(300)] != [make_plan(6, number) for number in range(300)]
    faults = [fault for plan in plans for attempt in plan.tries for fault in (*attempt.faults, *attempt.damage)]
    assert {fault.kind for fault in faults} == {*KINDS}
    assert {plan.work for plan in plans} == {*WORKS}
    assert all(make_plan(5, n, ["mid"], ["SIGTERM"]).work == "mid" for n in range(20))
    assert all(kinds_of(work) for work in WORKS)


# Writes lines as a metrics writer does, until a fault strikes. argv: the folder.
WRITING = """
import errno, os, sys
from pathlib import Path
from benchmarks.faults.inject import Injector, Order
folder = Path(sys.argv[1])
(folder / "base").mkdir()
do, part, after = sys.argv[2], float(sys.argv[3]), sys.argv[4] == "after"
order = Order("x", do, "metrics", 2, 0.0, part, after, errno.ENOSPC, 1)
Injector(folder / "base", [order], folder / "log").arm()
def write(text):
    with open(folder / "base/metrics.jsonl", "ab", buffering=0) as f:
        return f.write(text)
print(write(b"first\\n"), flush=True)
try:
    print(write(b"second\\n"), flush=True)
except OSError as error:
    print(error.strerror, flush=True)
print(write(b"third\\n"), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said", "text"),
    [
        ("kill 0 before", -9, "6\n", "first\n"),
        ("kill 0.5 before", -9, "6\n", "first\nsec"),
        ("kill 0 after", -9, "6\n", "first\nsecond\n"),
        ("fail 0 before", 0, "6\nNo space left on device\n6\n", "first\nthird\n"),
        ("fail 0.5 before", 0, "6\n3\n6\n", "first\nsecthird\n"),
    ],
    ids=["killed before", "killed within", "killed after", "refused", "cut short"],
)
def test_a_write_is_killed_cut_short_or_refused(
    tmp_path: Path, arguments: str, code: int, said: str, text: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITING, str(tmp_path), *arguments.split()],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, said)
    assert (tmp_path / "base/metrics.jsonl").read_text() == text
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_files_elsewhere_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    injector = Injector(tmp_path / "base", [Order("x", "fail", "rename", 1, 0, 0, False, 28, 0)], tmp_path / "log")
    assert injector._inside(tmp_path / "base/x") and not injector._inside(tmp_path / "x")
    assert not injector._inside(1)
