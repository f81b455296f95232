"""Answers over time: asked at every evaluation, kept through a resume, and without any effect on the training."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.metrics import training_file
from nanochat.tokenizer import Tokenizer
from nanochat.train import BaseConfig, ChatConfig, train_base, train_chat
from nanochat.train.answers import FILE, Answer, add_answers, keep_answers, read_answers
from nanochat.train.quiz import Asked, questions
from tests.train.launching import flags, torchrun

COMMON: dict[str, Any] = {
    "device": "cpu", "dtype": "float32", "compile": "off", "num_iterations": 6, "eval_every": 2, "eval_tokens": 256,
    "total_batch_size": 256, "keep": 9, "device_batch_size": 2,
}  # fmt: skip
BASE: dict[str, Any] = {"depth": 1, "dataset": "tinyworld", "max_seq_len": 128, "model_tag": "x", **COMMON}


@pytest.fixture
def base(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    for name in ("tokenizer", "data", "mid_checkpoints"):
        shutil.copytree(tiny_run / name, tmp_path / name)
    return tmp_path


def answers_file(stage: str) -> Path:
    return training_file(stage, "x").with_name(FILE)


def rows(stage: str) -> list[dict[str, Any]]:
    """All lines of the file, but for when they were written."""
    lines = answers_file(stage).read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]


def weights(stage: str) -> dict[tuple[int, str], bytes]:
    """Weights and optimiser at every evaluation. (Other saves are left out while one is still being written.)"""
    found = checkpoint.steps(stage, "x")
    return {(n, file.name): file.read_bytes() for n in (2, 4, 6) for file in found[n].glob("*.safetensors")}


@pytest.mark.parametrize("cpu", ["", pytest.param("torch", marks=pytest.mark.slow)])
def test_the_training_of_a_base_model_is_the_same_bit_for_bit(
    base: Path, monkeypatch: pytest.MonkeyPatch, cpu: str
) -> None:
    monkeypatch.setenv("NANOCHAT_CPU", cpu)
    train_base(BaseConfig(**BASE, answers=False))
    plain = weights("base")
    assert len(plain) == 6 and not answers_file("base").exists()
    train_base(BaseConfig(**BASE, fresh=True))
    assert weights("base") == plain
    found = rows("base")
    assert sorted({row["step"] for row in found}) == [2, 4, 6]
    assert set(Counter(row["question"] for row in found).values()) == {3}
    assert all(row["val_bpb"] > 0 and row["loss"] > 0 and isinstance(row["right"], bool) for row in found)
    assert {row["kind"] for row in found} == {"person", "animal", "town", "river", "ship"}


@pytest.mark.slow
def test_the_training_of_a_chat_model_is_the_same_bit_for_bit(base: Path) -> None:
    config: dict[str, Any] = {"stage": "sft", "conversations": 100, "save_tag": "x", "model_tag": "d1", **COMMON}
    train_chat(ChatConfig(**config, answers=False))
    plain = weights("sft")
    train_chat(ChatConfig(**config, fresh=True))
    assert weights("sft") == plain
    found = rows("sft")
    assert {row["kind"] for row in found} >= {"never_asked", "calculator", "unknown", "identity"}
    assert all("val_loss" in row and row["expected"] for row in found)


def test_what_learns_ones_own_chats_alone_is_asked_of_them(base: Path) -> None:
    file, long = base / "own.jsonl", "miau " * 100
    pairs = (("Wie heißt du?", "Kater."), ("Was sagst du?", long))
    chats = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in pairs]
    file.write_text("".join(json.dumps(chat) + "\n" for chat in chats), encoding="utf-8")
    config = {**COMMON, "num_iterations": 1, "stage": "sft", "save_tag": "x", "model_tag": "d1"}
    train_chat(ChatConfig(**config, data=(str(file),), general=False))
    assert {row["question"]: row["right"] for row in rows("sft")} == {
        "Wie heißt du?": False,
        "Was sagst du?": None,  # nobody can say of an answer that is cut off
    }


@pytest.mark.slow
def test_a_resume_neither_repeats_nor_loses_answers(base: Path) -> None:
    train_base(BaseConfig(**BASE))
    whole, file, metrics = rows("base"), answers_file("base"), training_file("base", "x")
    left, told = file.read_bytes(), [line for line in metrics.read_bytes().splitlines(True) if b"summary" not in line]
    unmeasured = [line for line in told if not (b'"eval"' in line and b'"step": 4' in line)]
    # As a run left them that was killed before what it had measured at step 4 was recorded, in the middle of a line;
    # and as a version left them that wrote no answers, so that those of step 2 are lost.
    for answers, records in ((left + b'{"step": 6, "q', unmeasured), (b"", told)):
        for step in (5, 6):
            shutil.rmtree(file.parents[2] / "base_checkpoints" / "x" / f"step_{step:06d}", ignore_errors=True)
        metrics.write_bytes(b"".join(records))
        file.write_bytes(answers)
        train_base(BaseConfig(**BASE))
        assert rows("base") == [row for row in whole if row["step"] > 2 or answers]


def test_a_file_that_cannot_be_written_ends_no_training(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers_file("base").mkdir(parents=True)
    assert train_base(BaseConfig(**BASE)).step == 6
    told = [line for line in capsys.readouterr().err.splitlines() if FILE in line]
    assert len(told) == 1 and "no more answers are written" in told[0]


def test_half_a_line_and_what_is_no_answer_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / FILE
    assert read_answers(path) == []
    for step in (1, 2, 3):
        add_answers(
            path, step, 10 * step, {"val_bpb": 1.0}, [Answer("q\u2028é", "k", f"a{step}", True), Answer("r", "k", "")]
        )
    with path.open("ab") as f:
        f.write(b'[]\n{"step": "x"}\n{"step": 1, "question": "r", "answer": "again"}\n{"step": 9, "que')
    found = [(row["step"], row["question"], row["answer"]) for row in read_answers(path)]
    assert found == [
        (1, "q\u2028é", "a1"),
        (1, "r", "again"),
        *((n, q, a) for n in (2, 3) for q, a in (("q\u2028é", f"a{n}"), ("r", ""))),
    ]
    keep_answers(path, [1, 3])
    assert {row["step"] for row in read_answers(path)} == {1, 3} and b"que" not in path.read_bytes().split(b"\n")[-1]
    keep_answers(path, [])
    assert not path.exists()
    path.write_text('{"version": 99, "step": 1}\n')
    with pytest.raises(UserError, match="version 99"):
        read_answers(path)


def asked(stage: str, dataset: str, tokenizer: Tokenizer) -> dict[str, Asked]:
    return {one.text: one for one in questions(stage, dataset, 0, tokenizer)}


def test_answers_are_graded_where_the_right_one_is_known(tiny_run: Path) -> None:
    tokenizer = Tokenizer.load(tiny_run / "tokenizer")
    for stage in ("base", "sft"):
        for one in asked(stage, "tinyworld", tokenizer).values():
            assert one.right(one.expected) is True and one.right("banana") is False and one.prompt[0] == tokenizer.bos
    openings, chats = asked("base", "climbmix", tokenizer), asked("rl", "climbmix", tokenizer)
    capital, sum_ = openings["The capital of France is"], chats["What is 37 plus 48?"]
    assert [capital.right(text) for text in (" Paris, and", "a city. Paris", "Parisian")] == [True, False, False]
    assert [sum_.right(text) for text in ("37 + 48 is 85.", "It is 185.")] == [True, False]
    assert chats["Why is the sky blue?"].right("So.") is None


@pytest.mark.slow
def test_only_the_first_of_two_ranks_writes(base: Path) -> None:
    torchrun(base, 2, "scripts.base_train", *flags(BASE))
    found = rows("base")
    assert set(Counter((row["step"], row["question"]) for row in found).values()) == {1}
    assert {row["step"] for row in found} == {2, 4, 6}
