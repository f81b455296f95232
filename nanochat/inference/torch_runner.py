"""The Runner on torch: any device, any dtype.

Chunks of one length run side by side: all newest tokens in one forward pass, a prompt's piece mostly in its own.
A row's logits may differ in their last bits with the rows beside it, and with how its prompt was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nanochat.inference.runner import Chunk
from nanochat.model.cache import Bounds, Rows, Slots

if TYPE_CHECKING:
    from nanochat.model import GPT

CHUNK_CPU, CHUNK_GPU = 256, 2048
PAGE = 256  # the cache's length is a multiple of it


class TorchRunner:
    def __init__(self, model: GPT) -> None:
        self.model = model
        self.slots = self.length = 0
        self.chunk = CHUNK_CPU if model.device.type == "cpu" else CHUNK_GPU
        self.cache = self._new_cache()

    def grow(self, slots: int, length: int) -> None:
        if slots <= self.slots and length <= self.length:
            return
        self.slots, self.length = max(self.slots, slots), max(self.length, -(-length // PAGE) * PAGE)
        old, self.cache = self.cache, self._new_cache()
        self.cache.take(old)

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        self.cache.copy(source, targets, length)

    def refresh(self) -> None:
        """Nothing is kept of the weights."""

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        by_length: dict[int, list[int]] = {}
        for number, chunk in enumerate(chunks):
            by_length.setdefault(len(chunk.ids), []).append(number)
        states: list[Tensor] = []
        order: list[int] = []
        for numbers in by_length.values():
            numbers.sort(key=lambda number: chunks[number].slot)
            state = self._last_states([chunks[number] for number in numbers])
            wanted = [row for row, number in enumerate(numbers) if chunks[number].wanted]
            states.append(state if len(wanted) == len(numbers) else state[self._tensor(wanted)])
            order += [numbers[row] for row in wanted]
        state = torch.cat(states) if len(states) > 1 else states[0]
        if order != sorted(order):
            state = state[self._tensor(sorted(range(len(order)), key=order.__getitem__))]
        return self.model.logits(state)

    def _last_states(self, chunks: Sequence[Chunk]) -> Tensor:
        """(n, width) after each of n chunks of one length."""
        given = self._tensor([[chunk.slot, chunk.start, chunk.before, *chunk.ids] for chunk in chunks])
        slots, starts, before = given[:, :3].unbind(1)
        bounds = Bounds.of([chunk.slot for chunk in chunks], [chunk.start for chunk in chunks], len(chunks[0].ids))
        if bounds.high > self.length:
            raise ValueError(f"{bounds.high} positions do not fit in a cache of {self.length}")
        return self.model.hidden(given[:, 3:], Rows(self.cache, slots, starts, before, bounds))[:, -1]

    def _new_cache(self) -> Slots:
        return Slots(self.model.config, self.slots, self.length, self.model.device, self.model.dtype)

    def _tensor(self, values: Sequence[object]) -> Tensor:
        """On the model's device, without waiting for it."""
        made = torch.tensor(values, dtype=torch.long)
        device = self.model.device
        return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)
