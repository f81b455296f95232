"""Conversations with a right answer, one file for each set, and the mixtures that a model is trained on."""

from __future__ import annotations

from nanochat.tasks.chats import ChatMix, SmolTalk
from nanochat.tasks.choices import ARC, MMLU
from nanochat.tasks.customjson import CustomJSON
from nanochat.tasks.gsm8k import GSM8K
from nanochat.tasks.humaneval import HumanEval
from nanochat.tasks.mixture import Mixture, default_mixture
from nanochat.tasks.passes import pass_at_k
from nanochat.tasks.recipe import read_mixture
from nanochat.tasks.spelling import SimpleSpelling, SpellingBee
from nanochat.tasks.table import TASKS, open_task
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
    "pass_at_k",
    "read_mixture",
]
