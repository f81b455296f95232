"""Nothing to learn is no loss of 0, and what training changes in people's own conversations is said before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanochat import checkpoint
from nanochat.commands import chat_sft
from nanochat.console import UserError
from nanochat.feed.packing import Example, Stream
from nanochat.metrics import read_metrics
from nanochat.tasks import CustomJSON, Mixture
from nanochat.tokenizer import Tokenizer, train_bpe
from nanochat.train import BaseConfig, ChatConfig, base, train_base, train_chat
from nanochat.train.stock import EMPTY, HALVED, LEFT_OUT, MERGED, changes, take_stock

COMMON: dict[str, Any] = {
    "answers": False,
    "stage": "sft", "device": "cpu", "dtype": "float32", "compile": "off", "eval_every": -1, "eval_tokens": 1024,
    "num_iterations": 2, "model_tag": "d1",
}  # fmt: skip
LONG = "many words of no use " * 60  # more than the context of 128
ANSWER = {"role": "assistant", "content": "Ahoy"}


def chat(question: str, *more: dict[str, Any], system: str = "") -> list[dict[str, Any]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question}, *(more or (ANSWER,))]


def write(path: Path, *chats: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in chats))
    return path


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_run, tmp_path / "base")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def only(path: Path) -> str:
    """A mixture of that file alone."""
    mixture = path.with_suffix(".toml")
    mixture.write_text(f"[[set]]\nfile = {str(path)!r}\n")
    return str(mixture)


def test_questions_that_fill_the_context_are_nothing_to_learn(run: Path) -> None:
    before = checkpoint.steps("sft", "d1")
    path = write(run / "mine.jsonl", *[chat(LONG)] * 64)
    with pytest.raises(UserError, match="nothing to learn"):
        train_chat(ChatConfig(mixture=only(path), **COMMON))
    assert checkpoint.steps("sft", "d1") == before


def test_they_are_left_out_and_counted_among_others(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(run / "mine.jsonl", *[chat(LONG)] * 64, *[chat(f"Hi {number}") for number in range(8)])
    state = train_chat(ChatConfig(mixture=only(path), **COMMON))
    assert state.loss > 0 and state.val["val_loss"] > 0
    out = capsys.readouterr().out
    said = f"sft: in {path}, of 72 conversations: 64 left out, since no answer begins within the context of 128 tokens"
    assert out.count(said) == 1
    assert out.index(said) < out.index("sft: conversations from mine.jsonl 8") < out.index("continuing")
    assert state.settings["mixture"] == "mine.jsonl 8"  # a run that had all 72 is another one


def test_everything_that_is_changed_is_said_with_its_place(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(
        run / "mine.jsonl",
        chat("Hi"),
        chat("Hi", {"role": "assistant", "content": LONG}),
        chat(LONG),
        chat("Hi", system="Be brief."),
        chat("Hi", {"role": "assistant", "content": " "}),
        chat("Hi", system="Be kind."),
    )
    with pytest.raises(UserError, match=r"1 cut at.*2 with the system text.*1 with an empty.*1 left out") as error:
        train_chat(ChatConfig(data=(str(path),), conversations=100, strict=True, **COMMON))
    train_chat(ChatConfig(data=(str(path),), conversations=100, **COMMON))
    out = capsys.readouterr().out
    assert error.value.problem in out
    for what, line in (("cut at", 2), ("left out", 3), ("system text", 4), ("empty answer", 5)):
        assert f"line {line}" in out.split(what)[1].split("first: ")[1].split(")")[0]


def test_what_was_marked_bad_is_said_and_is_no_mistake(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(run / "feedback.jsonl", *[chat(f"Hi {number}") for number in range(9)])
    with path.open("a") as file:
        file.write(json.dumps({"messages": chat("Hm", {"role": "assistant", "content": "No"}), "rating": "bad"}) + "\n")
    state = train_chat(ChatConfig(mixture=only(path), strict=True, **COMMON))
    said = f"sft: in {path}, 1 answer that was marked bad and not corrected is left out\n"
    assert capsys.readouterr().out.count(said) == 1
    assert state.settings["mixture"] == "feedback.jsonl 9"


def test_nothing_is_said_about_conversations_that_stay_as_they_are(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(run / "mine.jsonl", *[chat(f"Hi {number}") for number in range(9)])
    train_chat(ChatConfig(data=(str(path),), conversations=100, strict=True, **COMMON))
    assert "in " + str(path) not in capsys.readouterr().out


def test_strict_is_a_flag_of_both_commands_and_writes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(run / "mine.jsonl", chat("Hi", system="x"))
    before = checkpoint.steps("sft", "d1")
    command = ["chat_sft", "--strict", f"--data={path}", "--conversations=50", "--num-iterations=1", "--device=cpu"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as left:
        chat_sft.main()
    assert left.value.code == 2
    assert checkpoint.steps("sft", "d1") == before


def test_what_is_left_out_is_left_out_everywhere(tmp_path: Path) -> None:
    """In both mixtures, in every epoch; all else keeps its order."""
    tokenizer = Tokenizer(train_bpe([LONG + "Hi Ahoy"] * 3, 300))
    path = write(tmp_path / "mine.jsonl", chat("Hi 1"), chat(LONG), chat("Hi 2"), chat(LONG))
    other = write(tmp_path / "other.jsonl", *[chat(f"Ho {number}") for number in range(6)])
    sets = [(CustomJSON(other), 1.0), (CustomJSON(path), 3.0)]
    mixture, val = Mixture(sets), Mixture([(CustomJSON(path), 1.0)])
    before = list(mixture.order)
    take_stock(mixture, val, tokenizer, 65, False, "mid")
    assert mixture.order == [pair for pair in before if pair not in ((1, 1), (1, 3))]
    assert sorted(val.order) == [(0, 0), (0, 2)]
    assert changes(CustomJSON(path), tokenizer, 65) == {LEFT_OUT: [1, 3]}
    assert changes(CustomJSON(path), tokenizer, 10_000) == {}
    odd = write(tmp_path / "odd.jsonl", chat("\ud83d", {"role": "assistant", "content": ""}, system="s"))
    assert changes(CustomJSON(odd), tokenizer, 8) == {LEFT_OUT: [0]}
    assert changes(CustomJSON(odd), tokenizer, 12) == {MERGED: [0], EMPTY: [0], HALVED: [0]}


class Docs:
    """Documents of 4 ids, of which some teach nothing."""

    def __init__(self, teaches: list[bool]) -> None:
        self.teaches = teaches

    def __len__(self) -> int:
        return len(self.teaches)

    def get(self, indices: list[int]) -> list[Example]:
        masks = [np.array([False, False, self.teaches[i], self.teaches[i]]) for i in indices]
        return [Example(np.array([0, i, i, i]), mask) for i, mask in zip(indices, masks, strict=True)]


def test_every_row_of_a_stream_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    teaches = [number % 7 == 3 for number in range(100)]
    stream = Stream(Docs(teaches), 0, 1, 9, crop=False)
    rows = [stream.next_row() for _ in range(30)]
    assert all(mask[1:].any() for _, mask in rows)
    resumed = Stream(Docs(teaches), 0, 1, 9, crop=False, state=stream.state())
    for _ in range(30):
        for a, b in zip(stream.next_row(), resumed.next_row(), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="nothing to learn"):
        Stream(Docs([False] * 100), 0, 1, 9, crop=False).next_row()


@pytest.mark.parametrize("size", [16, 33, 40, 64, 1000])
def test_one_document_that_teaches_is_enough_for_every_stream(size: int) -> None:
    """Streams take documents 16 apart: one that comes by no other finds it all the same, also when it is resumed."""
    docs = Docs([number == 7 for number in range(size)])
    for index in range(16):
        stream = Stream(docs, index, 16, 9, crop=False)
        rows = [stream.next_row()[0].tolist() for _ in range(3)]
        assert all(7 in row for row in rows)
        resumed = Stream(docs, index, 16, 9, crop=False, state=stream.state())
        assert resumed.next_row()[0].tolist() == stream.next_row()[0].tolist()
    with pytest.raises(UserError, match="nothing to learn"):
        Stream(Docs([False] * size), 3, 16, 9, crop=False).next_row()


def test_text_that_is_read_over_and_over_is_warned_of(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted: dict[str, Any] = {**COMMON, "depth": 1, "dataset": "tinyworld", "max_seq_len": 64, "num_iterations": 1}
    del wanted["stage"]
    train_base(BaseConfig(**{**wanted, "total_batch_size": 64}))
    assert "passes over" not in capsys.readouterr().err
    monkeypatch.setattr(base, "MOST_PASSES", 1e-6)
    train_base(BaseConfig(**{**wanted, "total_batch_size": 128}))
    assert "passes over the" in capsys.readouterr().err


def test_the_metrics_say_what_a_chat_model_learnt_from(tiny_run: Path) -> None:
    for stage in ("mid", "sft"):
        rows = read_metrics(tiny_run / "runs" / f"{stage}-d1" / "metrics.jsonl")
        [settings] = [row for row in rows if row["kind"] == "settings"]
        assert "TinyWorld" in settings["learnt_from"]
