"""Tasks graded with a small real model and with one whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nanochat.console import UserError
from nanochat.eval import chat
from nanochat.eval.chat import RANDOM, Settings, chatcore, count, evaluate_task, letter_id, spread
from nanochat.eval.results import Score, TaskResult
from nanochat.machine import Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.tokenizer import Conversation, Message, Tokenizer


class Sums:
    """Generative: an answer of even length is right; odd and even questions are two categories."""

    name, kind = "Sums", "generative"

    def __init__(self, n: int = 23):
        self.n = n
        self.answers: dict[int, str] = {}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Conversation:
        return Conversation((Message.of("user", f"question {i} " + "x" * (i % 5)), Message.of("assistant", "A")))

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        self.answers[i] = answer
        return {"short" if i % 2 else "long": len(answer) % 2 == 0}

    def baseline(self) -> dict[str, float]:
        return {"short": 0.125}


class Letters(Sums):
    """Categorical: the right letter goes round."""

    name, kind = "MMLU", "categorical"

    def letters(self, i: int) -> tuple[str, ...]:
        return ("A", "B", "C", "D")[: 2 + i % 3]

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        self.answers[i] = answer
        return {f"subject {i % 2}": answer == "ABCD"[i % (2 + i % 3)]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer({bytes([i]): i for i in range(256)} | {b"qu": 256})


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    model = GPT(ModelConfig(2, 32, 2, 2, tokenizer.vocab_size, 64)).eval()
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data.normal_(0, 0.4, generator=generator)
    return model


@pytest.mark.parametrize("kind", [Sums, Letters])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batch_and_ranks_do_not_change_the_answers(
    kind: type[Sums], temperature: float, model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for batch in (1, 4, 64):
        task = kind()
        evaluate_task(model, tokenizer, task, Settings(batch=batch, max_tokens=6, temperature=temperature))
        assert len(task.answers) == len(task)
        answers.append(task.answers)
    split: dict[int, str] = {}
    monkeypatch.setattr(chat, "_gather", lambda graded, me: graded)
    for rank in range(3):
        monkeypatch.setattr(chat, "ranks", lambda rank=rank: Ranks(rank, rank, 3))
        task = kind()
        evaluate_task(model, tokenizer, task, Settings(batch=5, max_tokens=6, temperature=temperature))
        assert sorted(task.answers) == list(range(rank, 23, 3))
        split |= task.answers
    assert answers == [answers[0]] * 3
    assert split == answers[0]
    assert len(set(answers[0].values())) > 1


def test_letter_is_the_likeliest_at_the_answers_place(model: GPT, tokenizer: Tokenizer) -> None:
    task = Letters(6)
    evaluate_task(model, tokenizer, task, Settings(batch=6))
    for i in range(6):
        prompt = [
            tokenizer.bos,
            tokenizer.special("<|user_start|>"),
            *tokenizer.encode(task[i].messages[0].text),
        ]
        prompt += [tokenizer.special("<|user_end|>"), tokenizer.special("<|assistant_start|>")]
        logits = model(torch.tensor([prompt]))[0, -1]
        assert task.answers[i] == max(task.letters(i), key=lambda letter: logits[ord(letter)].item())


def test_counts_by_category() -> None:
    task = Sums()
    graded = {0: {"long": True, "spelled": False}, 1: {"short": False}, 2: {"long": True, "spelled": True}}
    result = count(task, graded)
    assert result.score == Score(2, 3)
    assert result.by_category == {"long": Score(2, 2), "spelled": Score(1, 2), "short": Score(0, 1, 0.125)}
    assert result.centered is None
    assert count(Letters(), {0: {"x": True}, 1: {"x": False}}).centered == pytest.approx(1 / 3)


def test_limit_takes_from_the_whole_task() -> None:
    assert spread(5, None) == spread(5, 9) == [0, 1, 2, 3, 4]
    assert spread(100, 4) == [0, 25, 50, 75]


def test_chatcore_needs_all_its_tasks() -> None:
    half = {name: TaskResult(Score(1, 2)) for name in RANDOM}
    assert chatcore({**half, "TinyWorld": TaskResult(Score(0, 1))}) == pytest.approx((3 * (0.25 / 0.75) + 3 * 0.5) / 6)
    del half["GSM8K"]
    assert chatcore(half) is None


def test_questions_longer_than_the_context_are_cut_aloud(
    model: GPT, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    class Long(Letters):
        def __getitem__(self, i: int) -> Conversation:
            return Conversation((Message.of("user", "word " * 40), Message.of("assistant", "A")))

    result = evaluate_task(model, tokenizer, Long(3), Settings(batch=2))
    assert result.score.n == 3
    assert "3 questions are longer than the context of 64 tokens" in capsys.readouterr().err


def test_bad_tasks_are_named(model: GPT, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="Sums has no questions"):
        evaluate_task(model, tokenizer, Sums(0))
    with pytest.raises(UserError, match="'Ax' is 2 tokens"):
        letter_id(tokenizer, "Ax")


def test_gather_joins_the_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    def everyone(shares: list, mine: dict) -> None:
        shares[:] = [mine, {1: {"x": False}}]

    monkeypatch.setattr(chat, "dist", SimpleNamespace(all_gather_object=everyone))
    assert chat._gather({0: {"x": True}}, Ranks(0, 0, 2)) == {0: {"x": True}, 1: {"x": False}}
