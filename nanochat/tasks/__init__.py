"""Conversations with a right answer, one file for each set, and the mixtures that a model is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.tasks.chats import ChatMix, SmolTalk
from nanochat.tasks.choices import ARC, MMLU
from nanochat.tasks.customjson import CustomJSON, beginnings
from nanochat.tasks.gsm8k import GSM8K
from nanochat.tasks.humaneval import HumanEval, open_sandbox
from nanochat.tasks.mixture import Mixture, default_mixture
from nanochat.tasks.passes import pass_at_k
from nanochat.tasks.recipe import read_mixture
from nanochat.tasks.spelling import SimpleSpelling, SpellingBee
from nanochat.tasks.table import TASKS, open_task
from nanochat.tasks.task import Conversations, Task, WithBaseline, WithGrading, WithLetters
from nanochat.tasks.tinyworld import TinyWorld

if TYPE_CHECKING:
    from nanochat.tasks.rewards import is_right, open_tasks, reward

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
    "WithBaseline",
    "WithGrading",
    "WithLetters",
    "beginnings",
    "default_mixture",
    "is_right",
    "open_sandbox",
    "open_task",
    "open_tasks",
    "pass_at_k",
    "read_mixture",
    "reward",
]

__getattr__ = lazy(__name__, {"rewards": "is_right open_tasks reward"})
