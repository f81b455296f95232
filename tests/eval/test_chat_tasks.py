"""Tasks graded with a small real model and with one whose answers are known."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing

from nanochat import machine
from nanochat.commands import chat_eval
from nanochat.console import UserError
from nanochat.conversation import Conversation, Message
from nanochat.eval.chat import RANDOM, AnswerSettings, chatcore, count, evaluate_task, evenly_spread, letter_id, version
from nanochat.eval.results import Score, TaskResult
from nanochat.model import GPT, ModelConfig
from nanochat.tokenizer import Tokenizer


class Sums:
    """Generative: an answer of even length is right; odd and even questions are two categories."""

    name, kind = "Sums", "generative"

    def __init__(self, n: int = 23):
        self.n = n
        self.answers: dict[int, list[str]] = {}

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Conversation:
        return Conversation((Message.of("user", f"question {i} " + "x" * (i % 5)), Message.of("assistant", "A")))

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        self.answers.setdefault(i, []).append(answer)
        return {"short" if i % 2 else "long": len(answer) % 2 == 0}

    def baseline(self) -> dict[str, float]:
        return {"short": 0.125}


class Letters(Sums):
    """Categorical: the right letter goes round."""

    name, kind = "MMLU", "categorical"

    def letters(self, i: int) -> tuple[str, ...]:
        return ("A", "B", "C", "D")[: 2 + i % 3]

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        self.answers.setdefault(i, []).append(answer)
        return {f"subject {i % 2}": answer == "ABCD"[i % (2 + i % 3)]}


def make_tokenizer() -> Tokenizer:
    return Tokenizer({bytes([i]): i for i in range(256)} | {b"qu": 256})


def make_model(tokenizer: Tokenizer) -> GPT:
    model = GPT(ModelConfig(2, 32, 2, 2, tokenizer.vocab_size, 64)).eval()
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data.normal_(0, 0.4, generator=generator)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    return make_model(tokenizer)


GREEDY = AnswerSettings(max_tokens=6)
SAMPLED = AnswerSettings(max_tokens=6, temperature=1.0, num_samples=5, seed=3)
CASES: list[tuple[type[Sums], AnswerSettings]] = [(Sums, GREEDY), (Sums, SAMPLED), (Letters, SAMPLED)]


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_batch_does_not_change_the_answers(
    kind: type[Sums], settings: AnswerSettings, model: GPT, tokenizer: Tokenizer
) -> None:
    found = []
    for batch in (1, 3, 8):
        task = kind()
        found.append((evaluate_task(model, tokenizer, task, replace(settings, batch=batch)), task.answers))
    assert found == [found[0]] * 3
    result, answers = found[0]
    assert sorted(answers) == list(range(23))
    samples = 5 if settings is SAMPLED and kind is Sums else 1
    assert {len(given) for given in answers.values()} == {samples}
    assert len({text for given in answers.values() for text in given}) > 1
    assert result.right == [sum(next(iter(kind().grade(i, text).values())) for text in answers[i]) for i in range(23)]
    assert result.score.accuracy == pytest.approx(sum(result.right) / (23 * samples))


def test_some_answers_are_kept_for_the_report(model: GPT, tokenizer: Tokenizer) -> None:
    class Mixed(Sums):
        """Every third question goes on a conversation, and says nothing alone."""

        def __getitem__(self, i: int) -> Conversation:
            before = (Message.of("user", "Hi"), Message.of("assistant", "Hi")) if i % 3 == 0 else ()
            return Conversation((*before, Message.of("user", f"{i} " + "x" * 3000), Message.of("assistant", "A")))

    task = Mixed()
    kept = evaluate_task(model, tokenizer, task, SAMPLED).samples
    asked = [int(one["prompt"].split()[0]) for one in kept]
    assert len(asked) == 8 and asked == sorted(asked) and all(i % 3 for i in asked) and asked[-1] > 15
    for i, one in zip(asked, kept, strict=True):
        assert one["text"] == task.answers[i][0] and len(one["prompt"]) == 2000
        assert (one["task"], one["right"]) == (task.name, len(one["text"]) % 2 == 0)
    assert evaluate_task(model, tokenizer, Letters(), SAMPLED).samples == []


def one_of_two(rank: int, port: int, folder: str) -> None:
    """A rank evaluates its share of each case together with the other one, and writes down the whole result."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    machine.join("gloo")
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    found = []
    for kind, settings in CASES:
        task = kind()
        result = evaluate_task(model, tokenizer, task, replace(settings, batch=4))
        assert sorted(task.answers) == list(range(rank, 23, 2))
        found.append(result.to_dict())
    Path(folder, f"{rank}.json").write_text(json.dumps(found))


def test_two_ranks_score_as_one(model: GPT, tokenizer: Tokenizer, tmp_path: Path, free_port: int) -> None:
    torch.multiprocessing.spawn(one_of_two, (free_port, str(tmp_path)), 2)
    alone = [evaluate_task(model, tokenizer, kind(), settings).to_dict() for kind, settings in CASES]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == json.loads(json.dumps(alone))
        assert [list(task["by_category"]) for task in found] == [list(task["by_category"]) for task in alone]


def test_every_question_seed_and_task_has_its_own_draws(model: GPT, tokenizer: Tokenizer) -> None:
    class Same(Sums):
        """The same question over and over."""

        def __getitem__(self, i: int) -> Conversation:
            return super().__getitem__(0)

    class Other(Same):
        name = "Other"

    def answers(kind: type[Sums], seed: int) -> list[str]:
        task = kind(6)
        evaluate_task(model, tokenizer, task, replace(SAMPLED, seed=seed))
        return [text for i in range(6) for text in task.answers[i]]

    drawn = [*answers(Same, 0), *answers(Same, 1), *answers(Other, 0)]
    assert len(set(drawn)) > 80  # of 90
    assert answers(Same, 0) == drawn[:30]


def test_pass_at_k_by_hand(model: GPT, tokenizer: Tokenizer) -> None:
    marks = [[True, False, False, True], [False] * 4]
    result = count(Sums(2), {i: [{"x": good} for good in marks[i]] for i in range(2)})
    assert result.score.accuracy == 0.25
    assert result.right == [2, 0]
    # One of the six pairs of the first question's answers has no right one.
    assert result.pass_at_k == pytest.approx({1: 0.25, 2: 5 / 12, 4: 0.5})
    found = evaluate_task(model, tokenizer, Sums(), SAMPLED)
    assert list(found.pass_at_k) == [1, 2, 4]
    assert found.pass_at_k[1] == pytest.approx(found.score.accuracy)
    assert found.pass_at_k[1] < found.pass_at_k[2] < found.pass_at_k[4]
    assert found.settings == {"temperature": 1.0, "top_k": 50, "num_samples": 5, "max_tokens": 6, "seed": 3}
    letters = evaluate_task(model, tokenizer, Letters(), SAMPLED)
    assert not letters.pass_at_k and not letters.settings


def test_several_answers_at_temperature_0_are_refused() -> None:
    with pytest.raises(UserError, match="all 4 answers to a question are the same at temperature 0. Give --temp"):
        AnswerSettings(num_samples=4)
    with pytest.raises(UserError, match="at temperature 0"):
        chat_eval.run(chat_eval.Config(num_samples=2))
    with pytest.raises(UserError, match="--num_samples is 0"):
        chat_eval.run(chat_eval.Config(num_samples=0))


def test_version_changes_with_the_questions_answers_and_letters() -> None:
    class Changed(Letters):
        def __getitem__(self, i: int) -> Conversation:
            asked, _ = super().__getitem__(i).messages
            return Conversation((asked, Message.of("assistant", "B" if i == 3 else "A")))

    class MoreLetters(Letters):
        def letters(self, i: int) -> tuple[str, ...]:
            return ("A", "B", "C", "D")

    asked = [
        (Letters(), [0, 1, 2, 3]),
        (Letters(), [0, 1, 2]),
        (Letters(), [1, 0, 2, 3]),
        (Changed(), [0, 1, 2, 3]),
        (MoreLetters(), [0, 1, 2, 3]),
        (Sums(), [0, 1, 2, 3]),
    ]
    assert len({version(task, items) for task, items in asked}) == 6
    assert version(Changed(), [0, 1, 2]) == version(Letters(), [0, 1, 2])


def test_letter_is_the_likeliest_at_the_answers_place(model: GPT, tokenizer: Tokenizer) -> None:
    task = Letters(6)
    evaluate_task(model, tokenizer, task, AnswerSettings(batch=6))
    for i in range(6):
        prompt = [
            tokenizer.bos,
            tokenizer.special("<|user_start|>"),
            *tokenizer.encode(task[i].messages[0].text),
        ]
        prompt += [tokenizer.special("<|user_end|>"), tokenizer.special("<|assistant_start|>")]
        logits = model(torch.tensor([prompt]))[0, -1]
        assert task.answers[i] == [max(task.letters(i), key=lambda letter: logits[ord(letter)].item())]


def test_counts_by_category() -> None:
    task = Sums()
    graded = {0: [{"long": True, "spelled": False}], 1: [{"short": False}], 2: [{"long": True, "spelled": True}]}
    result = count(task, graded)
    assert result.score == Score(2, 3)
    assert result.by_category == {"long": Score(2, 2), "spelled": Score(1, 2), "short": Score(0, 1, 0.125)}
    assert result.centered is None
    assert count(Letters(), {0: [{"x": True}], 1: [{"x": False}]}).centered == pytest.approx(1 / 3)


def test_limit_takes_from_the_whole_task() -> None:
    assert evenly_spread(5, None) == evenly_spread(5, 9) == [0, 1, 2, 3, 4]
    assert evenly_spread(100, 4) == [0, 25, 50, 75]


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

    result = evaluate_task(model, tokenizer, Long(3), AnswerSettings(batch=2))
    assert result.score.n == 3
    assert "3 of 3 questions are longer than the context of 64 tokens" in capsys.readouterr().err
    assert result.to_dict()["truncated"] == 3


def test_logits_that_are_not_finite_are_named(tokenizer: Tokenizer) -> None:
    model = make_model(tokenizer)
    model.head.weight.data[ord("A")] = float("nan")
    with pytest.raises(UserError, match="MMLU, question [0-9]+: the model's logits are not finite"):
        evaluate_task(model, tokenizer, Letters(), GREEDY)
    for settings in (GREEDY, SAMPLED):
        with pytest.raises(UserError, match="the model's logits are not finite"):
            evaluate_task(model, tokenizer, Sums(), settings)


def test_bad_tasks_are_named(model: GPT, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="Sums has no questions"):
        evaluate_task(model, tokenizer, Sums(0))
    with pytest.raises(UserError, match="'Ax' is 2 tokens"):
        letter_id(tokenizer, "Ax")
