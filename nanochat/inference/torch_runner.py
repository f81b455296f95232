"""The Runner on torch: any device, any dtype.

Chunks of one length run side by side: all newest tokens in one forward pass, a prompt's piece mostly in its own. On a
GPU the newest tokens' passes are recorded (see graphs.py). A row's logits may differ in their last bits with the rows
beside it, and with how its prompt was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

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

    name = "torch"

    def __init__(self, model: GPT, record: Record | Literal["auto"] | None = "auto") -> None:
        self.model = model
        self.chunk = CHUNK_GPU if model.device.type == "cuda" else CHUNK_CPU
        self._record: Record | Literal["auto"] | None = record
        # Every thread has a current GPU of its own, the first one in the beginning; streams and graphs belong to it.
        gpu = model.device.type == "cuda"
        self._current: AbstractContextManager[Any] = torch.cuda.device(model.device) if gpu else nullcontext()
        self._use(self._new_cache(0, 0))

    @torch.inference_mode()
    def clear(self, slot: int) -> None:
        """Masked positions are read, with weight 0, and 0 times no number is none."""
        self.cache.clear(slot)

    @torch.inference_mode()
    def grow(self, slots: int, length: int) -> None:
        if slots > self.slots or length > self.length:
            # The last page is there as a whole. But beyond the model's context it would need longer rotary tables.
            whole = min(-(-length // PAGE) * PAGE, self.model.config.seq_len)
            cache = self._new_cache(max(self.slots, slots), max(self.length, length, whole))
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

    @torch.inference_mode()
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
            if not 0 <= chunk.slot < self.slots or chunk.start + len(chunk.ids) > self.length:
                raise ValueError(
                    f"{len(chunk.ids)} tokens after {chunk.start} do not fit in slot {chunk.slot} of {self.slots}"
                    f" slots of {self.length} positions"
                )
            if not 0 <= chunk.wanted <= len(chunk.ids):
                raise ValueError(f"logits after {chunk.wanted} of {len(chunk.ids)} tokens are wanted")
            by_length.setdefault(len(chunk.ids), []).append(number)
        logits: list[Tensor] = []
        order: list[int] = []  # the number of the chunk of each row of logits
        with self._current:
            for length, numbers in by_length.items():
                alike = [chunks[number] for number in numbers]
                found = self._decoded(alike) if length == 1 else None
                logits.append(self._computed(alike) if found is None else found)
                order += [number for number in numbers for _ in range(chunks[number].wanted)]
        made = torch.cat(logits) if len(logits) > 1 else logits[0]
        return made if order == sorted(order) else made[self._tensor(_places(order))]

    def _decoded(self, chunks: list[Chunk]) -> Tensor | None:
        """By a recording."""
        if self.graphs is None or not all(chunk.wanted for chunk in chunks):
            return None
        return self.graphs.step(chunks)

    def _computed(self, chunks: list[Chunk]) -> Tensor:
        """Logits (wanted, V) after those ids of the chunks, all of one length, where they are wanted."""
        by_slot = sorted(range(len(chunks)), key=lambda number: chunks[number].slot)  # neighbours are not gathered
        rows = [chunks[number] for number in by_slot]
        bounds = Bounds.of([row.slot for row in rows], [row.start for row in rows], len(rows[0].ids))
        given = self._tensor([[row.slot, row.start, row.before, *row.ids] for row in rows])
        h = self.model.hidden(given[:, 3:], Rows(self.cache, given[:, :3], bounds))
        if all(chunk.wanted <= 1 for chunk in chunks):
            h, length = h[:, -1], 1
        else:
            h, length = h.flatten(0, 1), len(rows[0].ids)
        ends = [(place + 1) * length for place in _places(by_slot)]
        wanted = [at for end, chunk in zip(ends, chunks, strict=True) for at in range(end - chunk.wanted, end)]
        return self.model.logits(h if wanted == list(range(len(h))) else h[self._tensor(wanted)])

    def _tensor(self, values: Sequence[object]) -> Tensor:
        return sent(values, self.model.device)


def _places(order: list[int]) -> list[int]:
    """Where each of 0, 1, ... stands in `order`, or the places of its numbers by size."""
    return sorted(range(len(order)), key=order.__getitem__)
