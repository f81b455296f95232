"""Answers decoded together: finished ones leave their row of the KV cache, waiting ones take it over."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanochat.conversation import PartType
from nanochat.inference.generation import Generation
from nanochat.inference.request import Token
from nanochat.inference.sampling import sample
from nanochat.model import KVCache

if TYPE_CHECKING:
    from nanochat.model import GPT


class Batch:
    """Call `step` until `done`. The model has not yet seen the newest token of a row's generation."""

    def __init__(
        self, model: GPT, penalties: dict[PartType, Tensor], generations: Iterable[Generation], max_rows: int
    ) -> None:
        self.model = model
        self.penalties = penalties
        self.waiting = deque(generations)  # the samples of a request one after another
        self.rows: list[Generation | None] = [None] * min(max_rows, len(self.waiting))
        longest = max(len(generation.request.prompt) + generation.room for generation in self.waiting)
        self.cache = self._new_cache(len(self.rows), longest)
        self._prefilled: tuple[int, KVCache, Tensor] | None = None

    @property
    def done(self) -> bool:
        return not self.waiting and all(generation is None for generation in self.rows)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Admit waiting generations, with their first token, or else give every row one more token."""
        return self._admit() or self._decode()

    def _admit(self) -> list[Token]:
        tokens = []
        while self.waiting and None in self.rows:
            generation = self.waiting.popleft()
            cache, logits = self._prefill(generation)
            tokens += self._extend([generation], logits)
            if generation.finish is None:
                row = self.rows.index(None)
                self.rows[row] = generation
                self.cache.insert(torch.tensor([row], device=self.model.device), cache)
        return tokens

    def _prefill(self, generation: Generation) -> tuple[KVCache, Tensor]:
        """A one-row cache of the prompt, and the logits (1, V) after it; computed once per request."""
        if self._prefilled is None or self._prefilled[0] != generation.index:
            prompt = generation.request.prompt
            cache = self._new_cache(1, len(prompt))
            logits = self.model(self._ids([prompt]), cache, last_only=True)[:, 0]
            self._prefilled = (generation.index, cache, logits)
        return self._prefilled[1:]

    def _decode(self) -> list[Token]:
        """Feed every row its newest token, and choose the next."""
        live = [row for row, generation in enumerate(self.rows) if generation is not None]
        if not live:
            return []
        if len(live) <= len(self.rows) // 2:
            # Copying the cache costs as much as a few steps, so it waits until half of the rows have ended.
            self.cache = self.cache.select(torch.tensor(live, device=self.model.device))
            self.rows = [self.rows[row] for row in live]
            live = list(range(len(self.rows)))
        newest = [[0 if generation is None else generation.ids[-1]] for generation in self.rows]
        logits = self.model(self._ids(newest), self.cache, last_only=True)[:, 0]
        if len(live) < len(self.rows):
            empty = [row for row, generation in enumerate(self.rows) if generation is None]
            self.cache.reset(torch.tensor(empty, device=self.model.device))
            logits = logits[torch.tensor(live, device=self.model.device)]
        tokens = self._extend([row for row in self.rows if row is not None], logits)
        self.rows = [
            generation if generation is not None and generation.finish is None else None for generation in self.rows
        ]
        return tokens

    def _extend(self, generations: list[Generation], logits: Tensor) -> list[Token]:
        """Give every generation its next token: the forced one, or one chosen from its row of logits (B, V)."""
        logits = logits + torch.stack([self.penalties[generation.kind] for generation in generations])
        free = [not generation.forced for generation in generations]
        chosen = sample(
            logits,
            [s.request.temperature if open else 0.0 for s, open in zip(generations, free, strict=True)],
            [s.request.top_k or 0 for s in generations],
            [_draw(s) if open else 0.0 for s, open in zip(generations, free, strict=True)],
        )
        tokens = (s.push(s.forced[0] if s.forced else id) for s, id in zip(generations, chosen, strict=True))
        return [token for token in tokens if token is not None]

    def _new_cache(self, rows: int, length: int) -> KVCache:
        return KVCache(self.model.config, rows, length, self.model.device, self.model.dtype)

    def _ids(self, ids: list[list[int]]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.model.device)


def _draw(generation: Generation) -> float:
    return torch.rand((), generator=generation.random).item() if generation.request.temperature > 0 else 0.0
