"""The Runner on torch: any device, any dtype.

Chunks of one length run side by side: all newest tokens in one forward pass, a prompt's piece mostly in its own. On a
GPU the newest tokens' passes are recorded (see graphs.py). A row's logits may differ in their last bits with the rows
beside it, and with how its prompt was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nanochat.inference.graphs import CudaRecorder, Graphs, Record
from nanochat.inference.runner import Chunk
from nanochat.model.attention import PAGE
from nanochat.model.cache import Bounds, KVCache, Rows, sent

if TYPE_CHECKING:
    from nanochat.model import GPT

CHUNK_CPU, CHUNK_GPU = 256, 2048


class TorchRunner:
    """record: how the work on newest tokens is recorded; None: not at all; "auto": as CUDA graphs on a GPU.

    Logits are made in torch's inference mode: outside of it, they cannot be changed in place. Float64 in a float64
    model.
    """

    def __init__(self, model: GPT, record: Record | Literal["auto"] | None = "auto") -> None:
        self.model = model
        self.chunk = CHUNK_GPU if model.device.type == "cuda" else CHUNK_CPU
        self._record: Record | Literal["auto"] | None = record
        self._use(self._new_cache(0, 0))

    def grow(self, slots: int, length: int) -> None:
        if slots > self.slots or length > self.length:
            cache = self._new_cache(max(self.slots, slots), max(self.length, length))
            cache.take(self.cache)
            self._use(cache)

    def _new_cache(self, slots: int, length: int) -> KVCache:
        return KVCache(self.model.config, slots, length, self.model.device, self.model.dtype, PAGE)

    def _use(self, cache: KVCache) -> None:
        self.cache, self.slots, self.length = cache, cache.slots, cache.length
        self.graphs = self._new_graphs()

    def _new_graphs(self) -> Graphs | None:
        record: Record | None
        if self._record == "auto":
            record = CudaRecorder() if self.model.device.type == "cuda" else None
        else:
            record = self._record
        return Graphs(self.model, self.cache, record) if record is not None else None

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        self.cache.copy(source, targets, length)

    def refresh(self) -> None:
        if self.graphs is not None and self.graphs.stale:
            self.graphs = self._new_graphs()

    @property
    def recordings(self) -> int:
        return self.graphs.count if self.graphs is not None else 0

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        by_length: dict[int, list[int]] = {}
        for number, chunk in enumerate(chunks):
            by_length.setdefault(len(chunk.ids), []).append(number)
        logits: list[Tensor] = []
        order: list[int] = []  # the number of the chunk of each row of logits
        for length, numbers in by_length.items():
            found = self._decoded([chunks[n] for n in numbers]) if length == 1 else None
            if found is None:
                numbers.sort(key=lambda n: chunks[n].slot)  # neighbours in the cache need not be gathered
                found = self._computed([chunks[n] for n in numbers])
            wanted = [n for n in numbers if chunks[n].wanted]
            logits.append(found)
            order += wanted
        made = torch.cat(logits) if len(logits) > 1 else logits[0]
        if order != sorted(order):
            places: list[int] = sorted(range(len(order)), key=order.__getitem__)
            made = made[self._tensor(places)]
        return made

    def _decoded(self, chunks: list[Chunk]) -> Tensor | None:
        """By a recording."""
        if self.graphs is None or not all(chunk.wanted for chunk in chunks):
            return None
        return self.graphs.step(chunks)

    def _computed(self, chunks: list[Chunk]) -> Tensor:
        """Logits (wanted, V) after those of the chunks, all of one length, that want them."""
        slots, starts = [chunk.slot for chunk in chunks], [chunk.start for chunk in chunks]
        bounds = Bounds.of(slots, starts, len(chunks[0].ids))
        if bounds.high > self.length:
            raise ValueError(f"{bounds.high} positions do not fit in a cache of {self.length}")
        given = self._tensor([[chunk.slot, chunk.start, chunk.before, *chunk.ids] for chunk in chunks])
        h = self.model.hidden(given[:, 3:], Rows(self.cache, given[:, :3], bounds))[:, -1]
        wanted = [row for row, chunk in enumerate(chunks) if chunk.wanted]
        return self.model.logits(h if len(wanted) == len(chunks) else h[self._tensor(wanted)])

    def _tensor(self, values: Sequence[object]) -> Tensor:
        return sent(values, self.model.device)
