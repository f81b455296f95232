"""metrics.jsonl: appended to, read back, and what a resumed run did again counts once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.metrics import MetricsWriter, evaluation_file, last, newest, read_metrics, rewind, training_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "base-d4" / "metrics.jsonl"


def rows(*steps: int, kind: str = "step") -> list[dict[str, Any]]:
    return [{"kind": kind, "step": step} for step in steps]


def test_what_is_written_is_read(path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    writer = MetricsWriter(path)
    writer.write("settings", tag="d4", name=odd)
    MetricsWriter(path).write("step", step=1, loss=float("nan"), text="one\u2028two\nthree")
    first, second = read_metrics(path)
    assert (first["kind"], first["version"], first["name"]) == ("settings", 1, odd)
    assert second["text"] == "one\u2028two\nthree" and second["loss"] != second["loss"]
    assert last([first, second], "settings") is first and last([], "step") is None


def test_runs_have_files_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    files = {training_file(stage, tag) for stage in ("base", "sft") for tag in ("d4", "d6", "d4-x")}
    files |= {evaluation_file(c, "sft", tag) for c in ("chat_eval", "base_eval") for tag in ("d4", "d6")}
    assert len(files) == 10 and all(file.name == "metrics.jsonl" for file in files)
    assert all(file.is_relative_to(tmp_path / "runs") for file in files)


def test_there_may_be_no_file(path: Path) -> None:
    assert read_metrics(path) == []


def test_half_lines_and_strange_ones_are_passed_over(path: Path) -> None:
    path.parent.mkdir(parents=True)
    strange = [b"[1, 2]", b"null", b'"text"', b"{}", b'{"kind": 3}', b"\xff\xfe", b"[" * 100_000, b""]
    path.write_bytes(b"\n".join([*strange, b'{"kind": "step", "step": 1}', b'{"kind": "ste']))
    MetricsWriter(path).write("step", step=2)  # gets a line of its own
    assert [r["step"] for r in read_metrics(path)] == [1, 2]


def test_a_line_of_tomorrow_is_refused_in_one_sentence(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text('{"version": 2, "kind": "step", "step": 1}\n')
    with pytest.raises(UserError, match="format version 2, this program reads 1. Upgrade nanochat"):
        read_metrics(path)


def test_a_resumed_run_counts_each_step_once() -> None:
    """Killed after step 5, with a validation at 2 and 4; taken up after step 3."""
    written = [
        {"kind": "settings", "n": 1}, *rows(1, 2), *rows(2, kind="eval"), *rows(3, 4), *rows(4, kind="eval"), *rows(5),
        *rows(4), {"kind": "eval", "step": 4, "again": True}, *rows(5, 6), {"kind": "summary"},
    ]  # fmt: skip
    kept = newest(written)
    assert [r["step"] for r in kept if r["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [(r["step"], r.get("again", False)) for r in kept if r["kind"] == "eval"] == [(2, False), (4, True)]
    assert [r["kind"] for r in kept if "step" not in r] == ["settings", "summary"]


def test_a_run_that_began_anew_in_the_same_file_counts_alone() -> None:
    old = [{"kind": "settings", "n": 1}, *rows(1, 2, 3), {"kind": "summary", "val_bpb": 1.0}]
    new = [{"kind": "settings", "n": 2}, *rows(1)]
    assert newest([*old, *new]) == new


def test_a_validation_that_is_done_again_counts_once() -> None:
    assert newest([*rows(1), *rows(1, kind="eval"), {"kind": "eval", "step": 1, "b": 2}]) == [
        *rows(1),
        {"kind": "eval", "step": 1, "b": 2},
    ]


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 5)), min_size=1, max_size=6))
def test_any_chain_of_kills_gives_one_row_a_step(attempts: list[tuple[int, int]]) -> None:
    """Each attempt begins at a step that some earlier one reached, and does a few."""
    written: list[dict[str, Any]] = []
    alive: list[int] = []  # which attempt did step 1, 2, ...
    for number, (begin, count) in enumerate(attempts):
        begin = min(begin, len(alive))
        written += [{"kind": "step", "step": begin + 1 + n, "attempt": number} for n in range(count)]
        alive = alive[:begin] + [number] * count
    kept = newest(written)
    assert [r["step"] for r in kept] == list(range(1, len(alive) + 1))
    assert [r["attempt"] for r in kept] == alive


def test_lines_of_two_processes_do_not_mix(path: Path) -> None:
    code = "import sys; from pathlib import Path; from nanochat.metrics import MetricsWriter\n" + (
        "w = MetricsWriter(Path(sys.argv[1]))\nfor n in range(300): w.write('sample', who=sys.argv[2], text='x' * 5000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), who]) for who in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = read_metrics(path)
    assert len(found) == 600 and {len(r["text"]) for r in found} == {5000}


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*file/x/metrics.jsonl"):
        MetricsWriter(tmp_path / "file" / "x" / "metrics.jsonl")


def test_other_ranks_write_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    MetricsWriter(path).write("step", step=1)
    assert not path.exists()


def test_numbers_stay_json(path: Path) -> None:
    MetricsWriter(path).write("eval", step=1, val_bpb=0.1 + 0.2)
    assert json.loads(path.read_text())["val_bpb"] == 0.1 + 0.2


def test_what_a_killed_rewind_left_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsWriter(path).write("settings")
    (tmp_path / ".metrics.jsonl.123.part").write_text("half")
    (tmp_path / "another.part").touch()
    rewind(path, 5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["another.part", "metrics.jsonl"]
