"""Tasks to be trained on by reinforcement: their questions, and what an answer is worth."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from nanochat.console import UserError
from nanochat.tasks.choices import ARC, MMLU
from nanochat.tasks.gsm8k import GSM8K
from nanochat.tasks.spelling import SimpleSpelling, SpellingBee
from nanochat.tasks.task import Task
from nanochat.tasks.tinyworld import TinyWorld, TinyWorldQuestions

QUESTIONS = 10_000  # of a generated task
SEED = 3  # of the generated questions: others than those of mid (1) and sft (2)


@runtime_checkable
class WithReward(Protocol):
    """A task that rewards in degrees; of any other task the first mark counts, as 0 or 1."""

    def reward(self, i: int, answer: str) -> float: ...


def reward(task: Task, i: int, answer: str) -> float:
    """What an answer to question `i` is worth."""
    if isinstance(task, WithReward):
        return float(task.reward(i, answer))
    return float(is_right(task, i, answer))


def is_right(task: Task, i: int, answer: str) -> bool:
    return next(iter(task.grade(i, answer).values()))


def open_tasks(name: str, world_seed: int | None) -> tuple[Task, Task]:
    """Questions to train on, and held-out ones; UserError for a task that has no training questions."""
    match name:
        case "GSM8K":
            return GSM8K("train"), GSM8K()
        case "ARC-Easy":
            return ARC("Easy", "train"), ARC("Easy")
        case "ARC-Challenge":
            return ARC("Challenge", "train"), ARC("Challenge")
        case "MMLU":
            return MMLU("train"), MMLU()
        case "SpellingBee":
            return SpellingBee("train", QUESTIONS, SEED), SpellingBee()
        case "SimpleSpelling":
            return SimpleSpelling("train", QUESTIONS, SEED), SimpleSpelling()
        case "TinyWorld":
            return TinyWorldQuestions(world_seed, QUESTIONS, SEED), TinyWorld(world_seed=world_seed)
    names = "GSM8K, SpellingBee, SimpleSpelling, TinyWorld, ARC-Easy, ARC-Challenge, MMLU"
    raise UserError(f"there are no questions to train {name!r} on", f"Choose among {names}")
