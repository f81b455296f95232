"""The results file and its numbers."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

import nanochat
from nanochat.console import UserError
from nanochat.eval.results import (
    EvalResult,
    Score,
    TaskResult,
    centered,
    code_commit,
    require_counts,
    require_writable,
    version_hash,
    wilson,
)
from nanochat.metrics import evaluation_file, read_metrics

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


def test_answers_to_one_question_tell_less_than_those_to_many() -> None:
    alike = Score.of([1, 0] * 50, samples=4)  # every question always or never: four answers tell as much as one
    assert alike.ci95 == pytest.approx(wilson(50, 100))
    coins = Score.of([0.5] * 10, samples=4)  # every answer on its own: as 40 questions
    assert coins.ci95 == pytest.approx(wilson(20, 40))
    mixed = Score.of([1, 0.5, 0.5, 0], samples=2)  # variance 1/8, of a coin 1/4: as 8 questions
    assert mixed.ci95 == pytest.approx(wilson(4, 8))
    assert Score.of([0.0] * 6, samples=4).ci95 == wilson(0, 6)
    assert (mixed.accuracy, mixed.n) == (0.5, 4)
    assert Score.of([0.5], samples=100).ci95 == wilson(0.5, 1)  # one question tells nothing of others
    assert Score.of([1, 0, 1]) == Score(2, 3)


def test_version_is_of_the_parts_in_order() -> None:
    assert version_hash(["question", b"answer"]) == version_hash([b"question", "answer"])
    others = [["answer", "question"], ["questio", "nanswer"], ["question", "answer", ""], ["question"], []]
    assert len({version_hash(parts) for parts in [["question", "answer"], *others]}) == 6
    # By hand: printf '1:a2:bc' | sha256sum
    assert version_hash(["a", "bc"]) == "5310a58788781ab2"


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
    assert set(found) == {"version", "command", "checkpoint", "tasks", "chatcore", "made", "seconds"}
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
        "made",
        "seconds",
    }


def test_chatcore_has_an_interval(tmp_path: Path) -> None:
    two = {"A": TaskResult(Score(5, 10), centered=0.5, random=0.0), "B": TaskResult(Score(5, 10))}  # B is not in it
    record = EvalResult("chat_eval", CHECKPOINT, two, chatcore=0.5).to_dict()
    assert record["chatcore_ci95"] == pytest.approx(wilson(5, 10))


def test_a_score_says_what_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/some/where/chat_eval.py", "-i", "sft"])
    sampled = {"temperature": 0.8, "num_samples": 4, "seed": 7}
    tasks = {
        "Greedy": TaskResult(Score(2, 3), version="v1", right=[1, 0, True], settings={"temperature": 0.0}),
        "Sampled": TaskResult(Score(1.0, 3), right=[4, 0, 0], settings=sampled, pass_at_k={1: 0.25, 2: 0.5}),
        "Centered": TaskResult(Score(2, 4), centered=0.2, random=0.25),
    }
    EvalResult("chat_eval", CHECKPOINT, tasks, bpb={"val": 1.0}, bpb_version={"val": "v2"}).save(tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    made = found["made"]
    assert made["argv"] == ["chat_eval.py", "-i", "sft"]
    assert made["nanochat"] == nanochat.__version__
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", made["date"])
    assert made.get("commit", "") == code_commit()
    assert found["bpb_version"] == {"val": "v2"}
    greedy, sampled_task, centered_task = (found["tasks"][name] for name in tasks)
    assert (greedy["version"], greedy["right"], greedy["settings"]) == ("v1", "101", {"temperature": 0.0})
    assert (sampled_task["right"], sampled_task["settings"]) == ("4 0 0", sampled)
    assert sampled_task["pass_at_k"] == {"1": 0.25, "2": 0.5}
    assert centered_task["random"] == 0.25


def test_commit_of_a_checkout_and_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nanochat, "__file__", str(tmp_path / "nanochat" / "__init__.py"))
    assert code_commit() == ""
    (tmp_path / "f").write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "f"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    assert re.fullmatch(r"[0-9a-f]{12}", code_commit())
    (tmp_path / "f").write_text("2")
    assert code_commit().endswith(" (with local changes)")


def test_finish_logs_for_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    result().finish(tmp_path / "r.json", [{"prompt": "a", "text": "b"}])
    sample, record = read_metrics(evaluation_file("chat_eval", "sft", "d4"))
    assert (sample["kind"], sample["text"]) == ("sample", "b")
    assert record["kind"] == "eval"
    assert record["tasks"]["TinyWorld"]["n"] == 15
    assert "TinyWorld 0.8667, MMLU 0.2500, ChatCORE 0.5000" in capsys.readouterr().out


def test_any_text_and_any_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsdecode(b"caf\xe9\xff")  # no UTF-8
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["base_eval", f"--data={odd}"])
    EvalResult("base_eval", {**CHECKPOINT, "path": f"/{odd}"}).finish(
        tmp_path / f"{odd}.json", [{"prompt": "a", "text": "one line\u2028or two\x85or three"}]
    )
    found = json.loads((tmp_path / f"{odd}.json").read_text())
    assert (found["checkpoint"]["path"], found["made"]["argv"][1]) == (f"/{odd}", f"--data={odd}")
    sample, record = read_metrics(evaluation_file("base_eval", "sft", "d4"))
    assert sample["text"] == "one line\u2028or two\x85or three"
    assert record["checkpoint"] == found["checkpoint"]


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
