"""Curves go to the real wandb and trackio, offline; whatever these do, the training goes on with its numbers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanochat.console import UserError
from nanochat.metrics import MetricsWriter, read_metrics, rewind
from nanochat.pipeline.settings import SpeedrunConfig, resolve
from nanochat.train import tracker as trackers
from nanochat.train import tracking
from nanochat.train.config import BaseConfig, settings
from nanochat.train.state import TrainState
from nanochat.train.tracker import Tracker

SLOW = """
import time
from types import SimpleNamespace
time.sleep(0.2)
Settings = lambda **given: None
define_metric = lambda *a, **k: None
log = lambda numbers, step: print(step, flush=True)
finish = lambda: print("finished", flush=True)
init = lambda **given: SimpleNamespace(step=0, url="there", define_metric=define_metric, log=log, finish=finish)
"""
TRAINED = {"params": 4, "note": "naïve\ud800"}


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("WANDB_", "TRACKIO_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # no key of a person
    monkeypatch.setattr(trackers, "FAREWELL", 60.0)
    monkeypatch.setattr(trackers, "UNHEARD", 60.0)


def train(file: Path, tracker: str, begin: int, end: int, run: str = "night") -> None:
    """Steps begin + 1 to end, as of a training that goes on at `begin`."""
    state = TrainState("base", "d4", step=begin, settings={"depth": 4})
    if begin:
        rewind(file, begin)
    writer = Tracker(file, state, BaseConfig(run=run, tracker=tracker))  # type: ignore[arg-type]
    if not begin:
        writer.write("settings", **TRAINED | settings(BaseConfig(backup="hf://me/secret-token")))
    for step in range(begin + 1, end + 1):
        writer.write("step", step=step, loss=1 / step, tag="d4")
    writer.write("eval", step=end, val_bpb=1.0)
    writer.finish()


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    """What all offline runs logged, in order, and their ids."""
    from wandb.proto import wandb_internal_pb2 as pb

    rows = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for data in log_records(file.read_bytes()):
            record = pb.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                found = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                rows.append({"id": file.stem.removeprefix("run-"), **found})
    return rows


def log_records(data: bytes) -> Iterator[bytes]:
    """Of a file in LevelDB's log format, after wandb's own header of 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


needs_wandb = pytest.mark.skipif(not find_spec("wandb"), reason="wandb is not installed")
needs_trackio = pytest.mark.skipif(not find_spec("trackio"), reason="trackio is not installed")


@needs_wandb
def test_a_resumed_run_continues_its_curves_in_wandb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "runs" / "metrics.jsonl"
    train(file, "wandb", 0, 5)
    train(file, "wandb", 3, 7)
    rows = wandb_history(tmp_path)
    assert len({row["id"] for row in rows}) == 1
    assert [row["step/step"] for row in rows if "step/step" in row] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["eval/step"] for row in rows if "eval/step" in row] == [5, 7]
    assert [row["step"] for row in read_metrics(file) if row["kind"] == "step"] == [1, 2, 3, 4, 5, 6, 7]
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"secret-token" not in kept
    assert "offline" in capsys.readouterr().out


@needs_trackio
def test_a_resumed_run_continues_its_curves_in_trackio(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "metrics.jsonl"
    train(file, "trackio", 0, 4, run="")
    train(file, "trackio", 2, 6, run="")
    with sqlite3.connect(tmp_path / "trackio" / "nanochat.db") as db:
        rows = db.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    (name,) = {name for name, _, _ in rows}
    assert name.startswith("d4-base-")
    assert [step for _, step, metrics in rows if "step/loss" in str(metrics)] == [1, 2, 3, 4, 5, 6]


class Calls:
    """A run that keeps what it is given."""

    url = "here"

    def __init__(self) -> None:
        self.rows: list[tuple[str, int]] = []

    def log(self, kind: str, numbers: dict[str, float], step: int) -> None:
        self.rows.append((kind, step))

    def finish(self) -> None:
        self.rows.append(("finish", 0))


class Full(Calls):
    """Takes numbers, and finds at the end that it cannot keep them."""

    def finish(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("how", ["raises", "warns", "works"])
def test_only_numbers_that_were_kept_count_as_sent(tmp_path: Path, how: str) -> None:
    file, path = tmp_path / "metrics.jsonl", tmp_path / "wandb.json"
    file.write_text('{"kind": "settings"}\n{"kind": "step", "step": 1}\n')
    over, trouble = threading.Event(), threading.Event()
    over.set()
    if how == "warns":
        trouble.set()
    run = Full() if how == "raises" else Calls()
    following = tracking.follow(
        tracking.Rows(file), path, tracking.Record("ab", "x"), lambda config: run, over, trouble
    )
    if how == "raises":
        with pytest.raises(OSError, match="No space"):
            list(following)
    else:
        list(following)
    record = tracking.read_record(path)
    assert (record.sent if record else {}) == ({"step": 1} if how == "works" else {})


@needs_trackio
def test_what_a_full_disk_did_not_take_is_sent_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, place = tmp_path / "runs" / "metrics.jsonl", tmp_path / "trackio"
    place.write_text("no folder")
    train(file, "trackio", 0, 3)
    assert "trackio failed" in capsys.readouterr().err
    place.unlink()
    train(file, "trackio", 2, 5)
    with sqlite3.connect(place / "nanochat.db") as db:
        rows = db.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    assert [step for step, metrics in rows if "step/loss" in str(metrics)] == [1, 2, 3, 4, 5]


def sent(file: Path, record: tracking.Record) -> tuple[list[tuple[str, int]], list[Any]]:
    """What a process would send of a finished training, and the settings it starts with."""
    calls, configs, over = Calls(), [], threading.Event()
    over.set()
    start = lambda config: configs.append(config) or calls  # noqa: E731
    list(tracking.follow(tracking.Rows(file), file.with_name("wandb.json"), record, start, over, threading.Event()))
    return calls.rows, configs


def test_rows_of_an_earlier_training_and_broken_lines_are_not_sent(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [
        {"kind": "settings", "depth": 1},
        {"kind": "step", "step": 9},
        {"kind": "settings", "depth": 2},
        {"kind": "step", "step": 1, "loss": float("nan")},
        {"kind": "step", "step": "2"},
        {"kind": "sample", "step": 2},
        {"kind": "summary", "steps": 2},
    ]
    file.write_text("\n".join([*map(json.dumps, rows), "[]", '{"kind": "step", "step": 2', '{"kind": "step"']))
    found, configs = sent(file, tracking.Record("ab", "x"))
    assert found == [("step", 1), ("summary", 2), ("finish", 0)]
    assert [config["depth"] for config in configs] == [2]


def test_an_extended_run_gets_a_new_one_with_all_its_numbers(tmp_path: Path) -> None:
    path = tracking.record_file(tmp_path, "wandb")
    tracking.write_record(path, tracking.Record("ab12", "x", {"step": 100}))
    (tmp_path / "other.json").write_text('{"id": "../../x", "of": "y"}')
    tracking.another_run(tmp_path)
    new = tracking.read_record(path)
    assert new and new.id != "ab12" and not new.sent
    assert "../../x" in (tmp_path / "other.json").read_text()


@pytest.mark.parametrize(
    "module",
    [
        "raise RuntimeError('no network')",
        "import os; os._exit(7)",
        "import time; time.sleep(1e6)",
        "import getpass; getpass.getpass('key: ')",
    ],
    ids=["raises", "crashes", "hangs", "asks"],
)
def test_a_bad_tracker_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "wandb.py").write_text(module)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "bad"), *before.split(os.pathsep)]))
    monkeypatch.syspath_prepend(str(tmp_path / "bad"))
    monkeypatch.setattr(trackers, "UNHEARD", 0.5 if "sleep" in module else 60.0)
    processes: list[Any] = []
    popen = trackers.subprocess.Popen
    monkeypatch.setattr(trackers.subprocess, "Popen", lambda *a, **k: processes.append(popen(*a, **k)) or processes[-1])
    file = tmp_path / "runs" / "metrics.jsonl"
    train(file, "wandb", 0, 3)
    assert [row["step"] for row in read_metrics(file) if row["kind"] == "step"] == [1, 2, 3]
    said = capsys.readouterr()
    if "sleep" in module:
        assert "goes on for a minute" in said.out
        os.kill(processes[0].pid, signal.SIGKILL)
    else:
        assert "Weights & Biases failed, logging to metrics.jsonl only" in said.err
    processes[0].wait()


def test_a_tracker_that_begins_after_the_training_has_ended_gets_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a short training, or a killed one: nobody reads what the process says."""
    file = tmp_path / "runs" / "metrics.jsonl"
    writer = MetricsWriter(file)
    writer.write("settings", depth=4)
    writer.write("step", step=1, loss=2.0)
    (tmp_path / "wandb.py").write_text(SLOW)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    given = ["wandb", str(file.parent), "ab12", "x", "{}", "night-base", "night", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nanochat.train.tracking", *given], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin and process.stdout
    process.stdin.close()
    process.stdout.close()
    assert process.wait(60) == 0
    record = tracking.read_record(file.with_name("wandb.json"))
    assert record and record.sent == {"step": 1}
    assert (file.parent / "wandb.log").read_text() == "1\nfinished\n"


@needs_wandb
def test_without_a_key_and_a_terminal_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    train(tmp_path / "runs" / "metrics.jsonl", "wandb", 0, 2)
    assert "Weights & Biases failed" in capsys.readouterr().err


def test_other_ranks_track_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(trackers.subprocess, "Popen", None)
    train(tmp_path / "metrics.jsonl", "trackio", 0, 2)
    assert not list(tmp_path.glob("*.json*"))


@pytest.mark.parametrize(
    ("run", "tracker", "variable", "expected"),
    [
        ("", "", "", ""),
        ("", "", "dummy", ""),
        ("", "", "night", "wandb"),
        ("night", "", "", "wandb"),
        ("dummy", "", "night", ""),
        ("dummy", "trackio", "", ""),
        ("", "none", "night", ""),
        ("", "trackio", "dummy", "trackio"),
        ("night", "trackio", "", "trackio"),
    ],
)
def test_the_tracker_by_flags_and_environment(
    monkeypatch: pytest.MonkeyPatch, run: str, tracker: str, variable: str, expected: str
) -> None:
    from nanochat.train import config

    monkeypatch.setenv("WANDB_RUN", variable)
    monkeypatch.setattr(config, "_is_installed", lambda package: True)
    assert config.tracker_of(run, tracker) == expected


def test_a_missing_package_is_an_error_when_asked_for_and_a_warning_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanochat.train.config import check_config, tracker_of

    for package in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="pip install wandb"):
        check_config(BaseConfig(run="night"))
    with pytest.raises(UserError, match="pip install trackio"):
        resolve(SpeedrunConfig(tracker="trackio"), {})
    monkeypatch.setenv("WANDB_RUN", "night")
    assert tracker_of("", "") == ""
    assert "wandb is not installed" in capsys.readouterr().err


def test_what_wandb_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        step=0, url="https://x", dir="", define_metric=lambda *a, **k: None,
        log=lambda numbers, step: calls.append((numbers, step)), finish=lambda: calls.append("finished"),
    )  # fmt: skip
    fake = SimpleNamespace(init=lambda **given: calls.append(given) or run, Settings=lambda **given: given)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    made = tracking.Wandb("ab12", "night-base", "night", {"depth": 4})
    made.log("step", {"step": 3, "loss": 1.5}, 3)
    made.finish()
    asked = {k: v for k, v in calls[0].items() if k not in ("settings", "dir")}
    assert asked == {
        "project": "nanochat", "id": "ab12", "resume": "allow", "name": "night-base", "group": "night",
        "config": {"depth": 4},
    }  # fmt: skip
    assert calls[0]["settings"]["disable_git"]
    assert calls[1:] == [({"step/step": 3, "step/loss": 1.5}, 3), "finished"]
