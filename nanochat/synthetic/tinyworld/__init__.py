"""The built-in tiny world: text, conversations and held-out questions from one seed, without a network.

`World(seed)` decides who lives where and eats what; `documents` and `conversation` write about it
without end; `heldout` asks what neither of them ever asks.
"""

from __future__ import annotations

from nanochat.synthetic.tinyworld.dialogues import conversation
from nanochat.synthetic.tinyworld.documents import document, documents
from nanochat.synthetic.tinyworld.questions import CATEGORIES, Question, grade, heldout, training_question
from nanochat.synthetic.tinyworld.split import share
from nanochat.synthetic.tinyworld.world import World

__all__ = [
    "CATEGORIES",
    "Question",
    "World",
    "conversation",
    "document",
    "documents",
    "grade",
    "heldout",
    "share",
    "training_question",
]
