"""Best-fit packing of token sequences into rows of one length, as exactly resumable streams.

Every row starts with <|bos|>, and so does every document in it. A document longer than a row is cut into pieces of a
row's length, each with its own <|bos|>; a shorter one is never cut. A row starts with the document whose turn it is;
then the longest piece that still fits is added, until none fits. For conversations, the rest of the row is padded. For
pretraining (`crop`), it shows the beginning of the piece that starts the next row: there is no padding, and nothing is
lost, since that piece then comes whole.

Best fit and rows that start with a document come from upstream nanochat, pieces from "Fewer Truncations Improve
Language Modeling" (2024). The saved state of a stream is a few document numbers.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nanochat.console import UserError

BUFFER = 128  # documents a stream chooses from
REFILL = 32  # documents fetched (and tokenised) at once
ENDLESS = sys.maxsize  # the length of a source that starts over by itself
NOTHING = "there is nothing to learn: no conversation has an answer that begins within the model's context"
SHORTER = "Give shorter questions, or train a model with a longer context"


@dataclass(frozen=True)
class Example:
    """One tokenised document: ids (L,), the first <|bos|>; mask: which of them carry loss (None: all)."""

    ids: np.ndarray
    mask: np.ndarray | None = None

    @property
    def teaches(self) -> bool:
        """Whether there is anything in it to learn."""
        return self.mask is None or bool(self.mask[1:].any())


class Source(Protocol):
    """Numbered documents."""

    def __len__(self) -> int: ...

    def get(self, indices: list[int]) -> list[Example]: ...


START_ANEW = "Start anew with --fresh"


class Stream:
    """Documents `index`, `index + of`, `index + 2 of`, ... of a source (starting over at its end), packed into rows."""

    def __init__(self, source: Source, index: int, of: int, row: int, crop: bool, state: dict[str, Any] | None = None):
        self.source, self.index, self.of, self.row, self.crop = source, index, of, row, crop
        self.next = 0  # the documents of the stream are counted 0, 1, 2, ... on through all epochs
        self.repeated = 0  # tokens so far that filled up rows and were repeated
        self.shift = 0  # times that the stream had nothing to teach and took the documents beside its own
        self._fruitless = 0  # documents in a row that taught nothing
        self._docs: dict[int, Example] = {}
        # Where each document's next piece starts (it gets a <|bos|> in front), in the order of their turn:
        self._starts: dict[int, int] = {}
        self._pieces: list[tuple[int, int]] = []  # (length of the next piece, number), ascending
        if state is not None:
            self.next, self.repeated, self.shift = state["next"], state["repeated"], state.get("shift", 0)
            self._take(state["docs"])

    def state(self) -> dict[str, Any]:
        """docs: (number, start of its next piece) of every document that is not used up."""
        docs = list(self._starts.items())  # all of the current shift: earlier ones have none left
        return {"next": self.next, "docs": docs, "repeated": self.repeated, "shift": self.shift}

    def cut_to(self, row: int) -> None:
        """From the next row on, rows of another length."""
        if row != self.row:
            self.row = row
            self._pieces = sorted(self._piece(number) for number in self._starts)

    def next_row(self) -> tuple[np.ndarray, np.ndarray]:
        """ids (row,) int64 and mask (row,) bool: whether predicting that token carries loss."""
        ids = np.empty(self.row, np.int64)
        mask = np.ones(self.row, bool)
        at = 0
        while at < self.row:
            while len(self._docs) < BUFFER:
                self._take((number, 1) for number in range(self.next, self.next + REFILL))
                self.next += REFILL
            turn = next(iter(self._starts))
            fits = bisect_left(self._pieces, (self.row - at + 1,))
            if at == 0 or fits:
                at += self._place(ids[at:], mask[at:], self._pieces[fits - 1][1] if at else turn)
            elif self.crop:
                self._copy(ids[at:], mask[at:], turn)
                self.repeated += self.row - at
                break
            else:
                ids[at:], mask[at:] = ids[0], False  # <|bos|> as padding, never predicted
                break
        return ids, mask

    def _take(self, docs: Iterable[tuple[int, int]]) -> None:
        """Fetch documents by number, each to continue at its `start`; leave out those that teach nothing.

        UserError when no document of the source teaches anything.
        """
        wanted, size = list(docs), len(self.source)
        found = self.source.get([(self.index + self.shift + number * self.of) % size for number, _ in wanted])
        apart = math.gcd(size, self.of)
        for (number, start), doc in zip(wanted, found, strict=True):
            if not doc.teaches:
                self._fruitless += 1
                continue
            self._fruitless = 0
            if start > 1 and start >= len(doc.ids):
                raise UserError("the data position saved in this checkpoint is beyond a document's end", START_ANEW)
            self._docs[number], self._starts[number] = doc, start
            insort(self._pieces, self._piece(number))
        if self._fruitless >= size // apart:  # all that this stream reaches
            self.shift, self._fruitless = self.shift + 1, 0
            if self.shift >= apart:
                raise UserError(NOTHING, SHORTER)

    def _piece(self, number: int) -> tuple[int, int]:
        return 1 + min(len(self._docs[number].ids) - self._starts[number], self.row - 1), number

    def _place(self, ids: np.ndarray, mask: np.ndarray, number: int) -> int:
        """Copy the next piece of a document and end the document's turn; returns the piece's length."""
        piece = self._piece(number)
        del self._pieces[bisect_left(self._pieces, piece)]
        self._copy(ids[: piece[0]], mask[: piece[0]], number)
        start = self._starts.pop(number) + piece[0] - 1
        if start < len(self._docs[number].ids):
            self._starts[number] = start
            insort(self._pieces, self._piece(number))
        else:
            del self._docs[number]
        return piece[0]

    def _copy(self, ids: np.ndarray, mask: np.ndarray, number: int) -> None:
        """Copy the next piece of a document, or as much of it as `ids` has room for."""
        doc, start = self._docs[number], self._starts[number]
        ids[0] = doc.ids[0]
        ids[1:] = doc.ids[start : start + len(ids) - 1]
        if doc.mask is not None:
            mask[0] = doc.mask[0]
            mask[1:] = doc.mask[start : start + len(mask) - 1]
