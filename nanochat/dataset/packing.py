"""Best-fit packing of token sequences into rows of one length, as exactly resumable streams.

Every row starts at a document's first token (<|bos|>). The longest document that still fits goes in next; what is left
of the row is filled by the head of the shortest one (`crop`, for pretraining: no padding) or padded (for conversations,
which are never cut). The idea is upstream nanochat's; the state here is a handful of document numbers.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

BUFFER = 64  # documents a stream chooses from
REFILL = 32  # documents fetched (and tokenised) at once


@dataclass(frozen=True)
class Sequence:
    """One tokenised document: ids (L,), and whether the loss falls on each (None: on all)."""

    ids: np.ndarray
    mask: np.ndarray | None = None


class Source(Protocol):
    """Numbered documents."""

    def __len__(self) -> int: ...

    def get(self, indices: list[int]) -> list[Sequence]: ...


class Stream:
    """Documents `index`, `index + of`, `index + 2 of`, ... of a source (starting over at its end), packed into rows."""

    def __init__(self, source: Source, index: int, of: int, row: int, crop: bool, state: dict[str, Any] | None = None):
        self.source, self.index, self.of, self.row, self.crop = source, index, of, row, crop
        self.next = 0
        self.cropped = 0  # tokens thrown away since the start
        self._lengths: list[tuple[int, int]] = []  # (length, number), ascending: the shortest first
        self._docs: dict[int, Sequence] = {}
        if state is not None:
            self.next, self.cropped = state["next"], state["cropped"]
            self._take(state["buffer"])

    def state(self) -> dict[str, Any]:
        return {"next": self.next, "buffer": sorted(self._docs), "cropped": self.cropped}

    def _take(self, numbers: list[int]) -> None:
        docs = self.source.get([(self.index + n * self.of) % len(self.source) for n in numbers])
        for n, doc in zip(numbers, docs, strict=True):
            self._docs[n] = doc
            insort(self._lengths, (len(doc.ids), n))

    def next_row(self) -> tuple[np.ndarray, np.ndarray]:
        """ids (row,) int64 and mask (row,) bool: whether the loss falls on predicting that token."""
        ids = np.empty(self.row, np.int64)
        mask = np.ones(self.row, bool)
        at = 0
        while at < self.row:
            while len(self._docs) < BUFFER:
                numbers = list(range(self.next, self.next + REFILL))
                self._take(numbers)
                self.next += REFILL
            fit = bisect_right(self._lengths, (self.row - at, 1 << 62))
            if fit == 0 and at > 0 and not self.crop:
                ids[at:], mask[at:] = ids[0], False  # <|bos|> as padding, never predicted
                break
            _, n = self._lengths.pop(fit - 1 if fit else 0)
            doc = self._docs.pop(n)
            take = min(len(doc.ids), self.row - at)
            ids[at : at + take] = doc.ids[:take]
            if doc.mask is not None:
                mask[at : at + take] = doc.mask[:take]
            self.cropped += len(doc.ids) - take
            at += take
        return ids, mask
