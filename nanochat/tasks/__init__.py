"""Conversations with a right answer, one file for each set, and the mixtures that a model is trained on."""

from __future__ import annotations

from collections.abc import Callable

from nanochat.console import UserError
from nanochat.tasks.chats import ChatMix, SmolTalk
from nanochat.tasks.choices import ARC, MMLU
from nanochat.tasks.customjson import CustomJSON
from nanochat.tasks.gsm8k import GSM8K
from nanochat.tasks.humaneval import HumanEval
from nanochat.tasks.mixture import Mixture, default_mixture
from nanochat.tasks.recipe import read_mixture
from nanochat.tasks.spelling import SimpleSpelling, SpellingBee
from nanochat.tasks.task import Conversations, Task
from nanochat.tasks.tinyworld import TinyWorld

__all__ = [
    "ARC",
    "GSM8K",
    "MMLU",
    "TASKS",
    "ChatMix",
    "Conversations",
    "CustomJSON",
    "HumanEval",
    "Mixture",
    "SimpleSpelling",
    "SmolTalk",
    "SpellingBee",
    "Task",
    "TinyWorld",
    "default_mixture",
    "open_task",
    "read_mixture",
]

# What a chat model can be graded on, by the name that commands take.
TASKS: dict[str, Callable[[], Task]] = {
    "ARC-Easy": lambda: ARC("Easy"),
    "ARC-Challenge": lambda: ARC("Challenge"),
    "MMLU": lambda: MMLU(),
    "GSM8K": lambda: GSM8K(),
    "HumanEval": lambda: HumanEval(),
    "SpellingBee": lambda: SpellingBee(),
    "SimpleSpelling": lambda: SimpleSpelling(),
    "TinyWorld": lambda: TinyWorld(),
}


def open_task(name: str, world_seed: int | None = None) -> Task:
    """The test split of the task; UserError for an unknown name or when its data is not at hand.

    world_seed: of the tiny world; None: the one prepared last.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}", f"Choose among {', '.join(TASKS)}")
    return TinyWorld(world_seed=world_seed) if name == "TinyWorld" else TASKS[name]()
