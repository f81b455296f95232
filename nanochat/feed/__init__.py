"""Documents or conversations, packed into batches that a run resumes exactly where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.feed.packing import NOTHING, SHORTER, Example, Stream

if TYPE_CHECKING:
    from nanochat.feed.loader import AHEAD, Ahead, Loader, MicroBatch, Step, TextSource, merge_states

__all__ = [
    "AHEAD",
    "NOTHING",
    "SHORTER",
    "Ahead",
    "Example",
    "Loader",
    "MicroBatch",
    "Step",
    "Stream",
    "TextSource",
    "merge_states",
]

__getattr__ = lazy(__name__, {"loader": "AHEAD Ahead Loader MicroBatch Step TextSource merge_states"})
