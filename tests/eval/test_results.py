"""The results file and its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nanochat.console import UserError
from nanochat.eval.results import (
    EvalResult,
    Score,
    TaskResult,
    centered,
    require_counts,
    require_writable,
    wilson,
)
from nanochat.metrics import read_metrics

CHECKPOINT = {"path": "/x/step_000007", "stage": "sft", "tag": "d4", "step": 7, "hash": "abc"}


@pytest.mark.parametrize(
    ("passed", "n", "low", "high"),
    [  # from Wilson's formula in closed form, as published tables give it
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(passed: int, n: int, low: float, high: float) -> None:
    assert wilson(passed, n) == pytest.approx((low, high), abs=5e-5)


def test_centered_puts_a_guesser_at_zero() -> None:
    assert centered(0.25, 0.25) == 0
    assert centered(1.0, 0.25) == 1
    assert centered(0.0, 0.5) == -1


def result() -> EvalResult:
    parts = {"facts": Score(9, 10, 0.1), "unknown": Score(4, 5)}
    tasks = {"TinyWorld": TaskResult(Score(13, 15), parts), "MMLU": TaskResult(Score(1, 4), centered=0.0)}
    return EvalResult("chat_eval", CHECKPOINT, tasks, chatcore=0.5, seconds=1.23456)


def test_file_has_the_agreed_fields(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    result().save(path)
    found = json.loads(path.read_text())
    assert set(found) == {"version", "command", "checkpoint", "tasks", "chatcore", "seconds"}
    assert found["version"] == 1
    assert found["checkpoint"] == CHECKPOINT
    assert found["seconds"] == 1.235
    world = found["tasks"]["TinyWorld"]
    assert set(world) == {"accuracy", "n", "ci95", "by_category"}
    assert (world["accuracy"], world["n"]) == (pytest.approx(13 / 15), 15)
    assert world["by_category"]["facts"]["baseline"] == 0.1
    assert "baseline" not in world["by_category"]["unknown"]
    assert set(found["tasks"]["MMLU"]) == {"accuracy", "n", "ci95", "centered"}
    assert list(tmp_path.iterdir()) == [path]


def test_only_what_was_measured_is_there() -> None:
    assert set(EvalResult("base_loss", CHECKPOINT, bpb={"val": 1.0}).to_dict()) == {
        "version",
        "command",
        "checkpoint",
        "tasks",
        "bpb",
        "seconds",
    }


def test_finish_logs_for_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    result().finish(tmp_path / "r.json", [{"prompt": "a", "text": "b"}])
    sample, record = read_metrics(tmp_path / "runs" / "chat_eval-sft" / "metrics.jsonl")
    assert (sample["kind"], sample["text"]) == ("sample", "b")
    assert record["kind"] == "eval"
    assert record["tasks"]["TinyWorld"]["n"] == 15
    assert "TinyWorld 0.8667, MMLU 0.2500, ChatCORE 0.5000" in capsys.readouterr().out


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    result().finish(tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_bad_places_and_counts_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        require_writable(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        require_writable(tmp_path / "none" / "r.json")
    require_writable(tmp_path / "r.json")
    with pytest.raises(UserError, match="--split_tokens is -1"):
        require_counts(device_batch_size=0, split_tokens=-1)
