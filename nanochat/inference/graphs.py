"""Decoding steps of fixed shapes, recorded once and replayed: on a GPU, one launch instead of some hundred.

A recording holds addresses, not values: every step copies its input into the same buffer, and finds its result in the
same place. Weights may change where they are; a cache or weights that move need new recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nanochat.console import warn
from nanochat.inference.runner import Chunk
from nanochat.model.cache import Bounds, KVCache, Rows, sent

if TYPE_CHECKING:
    from nanochat.model import GPT

Work = Callable[[], None]
Record = Callable[[Work], Work]  # does the work, and gives what does it again, on the same memory
LEAST = 1 << 29  # bytes that must be free for a recording: a step's activations, and workspaces of cuBLAS


def padded_rows(rows: int) -> int:
    """Rows of the recording that serves so many: a power of two, so that few are needed."""
    return 1 << (rows - 1).bit_length()


def padded_keys(end: int, page: int, room: int) -> int:
    """Positions that it looks at, where attention cannot stop at a row's end: pages, doubled as often as it takes."""
    return min(room, page * padded_rows(-(-end // page)))


class Graphs:
    """Recordings of one cache's decoding steps. `step` gives None where a step cannot be recorded."""

    def __init__(self, model: GPT, cache: KVCache, record: Record) -> None:
        self.model, self.cache, self._record = model, cache, record
        self.given = torch.zeros(padded_rows(max(1, cache.slots)), 4, dtype=torch.long, device=model.device)
        self._steps: dict[tuple[int, int], _Step] = {}  # by rows and keys
        self._weights = _addresses(model)
        self._off = False

    def step(self, chunks: Sequence[Chunk]) -> Tensor | None:
        """Logits (n, V) after n chunks of one id each, valid until the next step."""
        if self._off:
            return None
        end = max(chunk.start for chunk in chunks) + 1
        keys = self.cache.room if self.cache.paged else padded_keys(end, self.cache.page, self.cache.room)
        rows = padded_rows(len(chunks))
        filling = [[self.cache.slots, 0, -1, 0]] * (rows - len(chunks))
        table = [[chunk.slot, chunk.start, chunk.before, *chunk.ids] for chunk in chunks] + filling
        self.given[:rows].copy_(sent(table, self.given.device), non_blocking=True)
        step = self._steps.get((rows, keys))
        if step is not None:
            step.again()
        elif (step := self._recorded(rows, keys)) is None:
            return None
        return step.logits[: len(chunks)]

    def _recorded(self, rows: int, keys: int) -> _Step | None:
        step = _Step(self.model, self.cache, self.given[:rows], keys)
        try:
            step.again = self._record(step.compute)
        except RuntimeError as error:  # whatever a device could not do, the same work in single launches can
            self._off = True
            warn(f"decoding goes on without CUDA graphs, which is slower: {str(error).splitlines()[0]}")
            return None
        self._steps[rows, keys] = step
        return step

    @property
    def count(self) -> int:
        """Recordings made."""
        return len(self._steps)

    @property
    def stale(self) -> bool:
        """Whether weights are elsewhere than they were."""
        return self._weights != _addresses(self.model)


class _Step:
    """One shape: `given` (rows, 4) is slot, start, the token before and the token; attention has `keys` positions."""

    logits: Tensor
    again: Work

    def __init__(self, model: GPT, cache: KVCache, given: Tensor, keys: int) -> None:
        self.model, self.cache, self.given = model, cache, given
        self.bounds = Bounds(1, 0, keys)
        self._kept: Any = None

    def compute(self) -> None:
        h = self.model.hidden(self.given[:, 3:], Rows(self.cache, self.given[:, :3], self.bounds))
        self.logits = self.model.logits(h[:, -1])
        self._kept = self.model.cos, self.model.sin  # the model replaces them when it needs longer ones


def _addresses(model: GPT) -> list[int]:
    return [p.data_ptr() for p in model.parameters()]


class CudaRecorder:
    """Records the CUDA graphs of one cache, whose memory is shared: no two run at once."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream: Any = None

    def __call__(self, work: Work) -> Work:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        if free < LEAST:
            raise RuntimeError(f"only {free >> 20} MB of the GPU's memory are free")
        if self._pool is None:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        # Libraries make what they need at the first calls, which must not be recorded. On another stream, as torch's
        # notes on CUDA graphs want it.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile: a loader that pins memory, say.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        graph.replay()  # recording computes nothing
        return graph.replay
