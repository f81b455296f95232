"""All sets of conversations by name: how to open each, and what it is used for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from nanochat.console import UserError
from nanochat.tasks.chats import ChatMix, SmolTalk
from nanochat.tasks.choices import ARC, MMLU
from nanochat.tasks.gsm8k import GSM8K
from nanochat.tasks.humaneval import HumanEval
from nanochat.tasks.spelling import SimpleSpelling, SpellingBee
from nanochat.tasks.task import Conversations, Split, Task
from nanochat.tasks.tinyworld import TinyWorld, TinyWorldQuestions

Use = Literal["train", "evaluate", "reward"]
# Called with split, seed of the tiny world (None: the one prepared last), size (None: the usual one) and seed.
Open = Callable[[Split, int | None, int | None, int], Conversations]


@dataclass(frozen=True)
class Known:
    """generated: of any size. questions: those for reinforcement learning, if not the training split."""

    open: Open
    uses: tuple[Use, ...] = ("train", "evaluate", "reward")
    generated: bool = False
    questions: Open | None = None


TABLE: dict[str, Known] = {
    "ARC-Easy": Known(lambda split, *_: ARC("Easy", split)),
    "ARC-Challenge": Known(lambda split, *_: ARC("Challenge", split)),
    "MMLU": Known(lambda split, *_: MMLU(split)),
    "GSM8K": Known(lambda split, *_: GSM8K(split)),
    "HumanEval": Known(lambda *_: HumanEval(), ("evaluate",)),
    "SpellingBee": Known(lambda split, _, size, seed: SpellingBee(split, size, seed), generated=True),
    "SimpleSpelling": Known(lambda split, _, size, seed: SimpleSpelling(split, size, seed), generated=True),
    "TinyWorld": Known(
        TinyWorld, generated=True, questions=lambda _, world, size, seed: TinyWorldQuestions(world, size, seed)
    ),
    "SmolTalk": Known(lambda split, *_: SmolTalk(split), ("train",)),
    "ChatMix": Known(lambda split, *_: ChatMix(split), ("train",)),
}


def names(use: Use) -> tuple[str, ...]:
    return tuple(name for name, known in TABLE.items() if use in known.uses)


TASKS = names("evaluate")


def open_set(
    name: str, split: Split, world_seed: int | None = None, size: int | None = None, seed: int = 0
) -> Conversations:
    """The set of that name in the table."""
    return TABLE[name].open(split, world_seed, size, seed)


def open_task(name: str, world_seed: int | None = None) -> Task:
    """The test split of the task; UserError for an unknown name or when its data is not at hand.

    world_seed: of the tiny world; None: the one prepared last.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}", f"Choose among {', '.join(TASKS)}")
    return cast(Task, open_set(name, "test", world_seed))


def open_questions(name: str, world_seed: int | None, seed: int) -> Task:
    """The task's questions for reinforcement learning; UserError for a task that has none."""
    if name not in names("reward"):
        raise UserError(f"there are no questions to train {name!r} on", f"Choose among {', '.join(names('reward'))}")
    return cast(Task, (TABLE[name].questions or TABLE[name].open)("train", world_seed, None, seed))
