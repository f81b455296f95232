"""Answers decoded together: finished ones leave their row of the KV cache, waiting ones take it over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanochat.conversation import PartType
from nanochat.inference.request import Token
from nanochat.inference.sampling import sample
from nanochat.inference.sequence import Sequence
from nanochat.model import KVCache

if TYPE_CHECKING:
    from nanochat.model import GPT


class Batch:
    """Call `step` until `done`. Every sequence in a row has a newest token that the model has not seen."""

    def __init__(
        self, model: GPT, penalties: dict[PartType, Tensor], sequences: Iterable[Sequence], max_rows: int
    ) -> None:
        self.model = model
        self.penalties = penalties
        self.waiting = deque(sequences)  # the samples of a request one after another
        self.rows: list[Sequence | None] = [None] * min(max_rows, len(self.waiting))
        longest = max(len(sequence.request.prompt) + sequence.room for sequence in self.waiting)
        self.cache = self._new_cache(len(self.rows), longest)
        self._prefilled: tuple[int, KVCache, Tensor] | None = None

    @property
    def done(self) -> bool:
        return not self.waiting and all(sequence is None for sequence in self.rows)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Let waiting sequences in, with their first token, or else one more token to every row."""
        return self._admit() or self._decode()

    def _admit(self) -> list[Token]:
        tokens = []
        while self.waiting and None in self.rows:
            sequence = self.waiting.popleft()
            cache, logits = self._prefill(sequence)
            tokens += self._extend([sequence], logits)
            if sequence.finish is None:
                row = self.rows.index(None)
                self.rows[row] = sequence
                self.cache.insert(torch.tensor([row], device=self.model.device), cache)
        return tokens

    def _prefill(self, sequence: Sequence) -> tuple[KVCache, Tensor]:
        """The prompt's cache of one row, and the logits (1, V) behind it; computed once per request."""
        if self._prefilled is None or self._prefilled[0] != sequence.index:
            prompt = sequence.request.prompt
            cache = self._new_cache(1, len(prompt))
            logits = self.model(self._ids([prompt]), cache, last_only=True)[:, 0]
            self._prefilled = (sequence.index, cache, logits)
        return self._prefilled[1:]

    def _decode(self) -> list[Token]:
        """Feed every row its newest token, and choose the next."""
        live = [row for row, sequence in enumerate(self.rows) if sequence is not None]
        if not live:
            return []
        if len(live) <= len(self.rows) // 2:
            # Copying the cache costs as much as a few steps, so not at every row that ends.
            self.cache = self.cache.select(torch.tensor(live, device=self.model.device))
            self.rows = [self.rows[row] for row in live]
            live = list(range(len(self.rows)))
        newest = [[0 if sequence is None else sequence.ids[-1]] for sequence in self.rows]
        logits = self.model(self._ids(newest), self.cache, last_only=True)[:, 0]
        if len(live) < len(self.rows):
            empty = [row for row, sequence in enumerate(self.rows) if sequence is None]
            self.cache.reset(torch.tensor(empty, device=self.model.device))
            logits = logits[torch.tensor(live, device=self.model.device)]
        tokens = self._extend([sequence for sequence in self.rows if sequence is not None], logits)
        self.rows = [sequence if sequence is not None and sequence.finish is None else None for sequence in self.rows]
        return tokens

    def _extend(self, sequences: list[Sequence], logits: Tensor) -> list[Token]:
        """Give every sequence its next token: the forced one, or one chosen from its row of logits (B, V)."""
        logits = logits + torch.stack([self.penalties[sequence.kind] for sequence in sequences])
        free = [not sequence.forced for sequence in sequences]
        chosen = sample(
            logits,
            [s.request.temperature if open else 0.0 for s, open in zip(sequences, free, strict=True)],
            [s.request.top_k or 0 for s in sequences],
            [_draw(s) if open else 0.0 for s, open in zip(sequences, free, strict=True)],
        )
        tokens = (s.push(s.forced[0] if s.forced else id) for s, id in zip(sequences, chosen, strict=True))
        return [token for token in tokens if token is not None]

    def _new_cache(self, rows: int, length: int) -> KVCache:
        return KVCache(self.model.config, rows, length, self.model.device, self.model.dtype)

    def _ids(self, ids: list[list[int]]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.model.device)


def _draw(sequence: Sequence) -> float:
    return torch.rand((), generator=sequence.random).item() if sequence.request.temperature > 0 else 0.0
