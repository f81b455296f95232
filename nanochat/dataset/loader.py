"""From documents to the micro-batches of one optimiser step, the same whatever the number of ranks.

Row n of the run comes from stream n % STREAMS and goes to rank n % world, so that a rank packs only its own streams and
the union over ranks does not change with their number. Reading, tokenising and packing run ahead in a thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nanochat.console import UserError
from nanochat.dataset.packing import ENDLESS, Sequence, Source, Stream
from nanochat.machine import Ranks

if TYPE_CHECKING:
    from nanochat.dataset.shards import Shards
    from nanochat.tokenizer import Tokenizer

STREAMS = 16  # any number of ranks that divides it sees the same stream
AHEAD = 4  # steps packed in advance
LEAVE = 2.0  # seconds to wait for the thread that packs, when no more is wanted
STATE_VERSION = 2


@dataclass(frozen=True)
class Batch:
    """ids and targets (B, T) int64; a target of -1 carries no loss."""

    ids: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Step:
    """This rank's part of an optimiser step. valid: its targets that carry loss. state: the loader's, afterwards."""

    micro: list[Batch]
    valid: int
    state: dict[str, Any]


class TextSource:
    """Documents of text shards as <|bos|> + tokens, without end.

    After the last document it starts over by itself, so that their number need not be known (nor all shards be there)
    before the first epoch has ended.
    """

    def __init__(self, shards: Shards, tokenizer: Tokenizer):
        self.shards, self.tokenizer = shards, tokenizer
        self._bos = np.array([tokenizer.bos], np.uint32)

    def __len__(self) -> int:
        return ENDLESS

    def get(self, indices: list[int]) -> list[Sequence]:
        texts = self.shards.get_many([self.shards.wrapped(index) for index in indices])
        return [Sequence(np.concatenate([self._bos, ids])) for ids in self.tokenizer.encode_arrays(texts)]


class Loader:
    """Iterates over `Step`s without end.

    seq_len: T. rows: sequences per step over all ranks. micro_rows: B, sequences per forward pass. crop: see packing.
    """

    def __init__(
        self,
        source: Source,
        seq_len: int,
        rows: int,
        micro_rows: int,
        ranks: Ranks,
        crop: bool,
        state: dict[str, Any] | None = None,
    ):
        if len(source) == 0:
            raise UserError("the data has no documents", "Prepare it with python -m nanochat.dataset")
        if state and state["version"] != STATE_VERSION:
            raise UserError(
                f"the place in the data that this checkpoint saved has format version {state['version']}, "
                f"not {STATE_VERSION}",
                "Leave --resume out to start anew",
            )
        self.streams = state["of"] if state else max(STREAMS, ranks.world)
        if self.streams % ranks.world or rows % ranks.world:
            raise UserError(
                f"{rows} sequences a step in {self.streams} streams cannot be dealt to {ranks.world} ranks",
                f"Use a number of ranks that divides both, such as {np.gcd(rows, self.streams)}",
            )
        if rows // ranks.world % micro_rows:
            raise UserError(
                f"{rows // ranks.world} sequences a step and rank are no multiple of the device batch of {micro_rows}",
                f"Use --device_batch_size={np.gcd(rows // ranks.world, micro_rows)} or another --total_batch_size",
            )
        self.rows, self.micro_rows, self.ranks, self.seq_len = rows, micro_rows, ranks, seq_len
        self.row = state["row"] if state else 0  # rows dealt so far, over all ranks
        states = state["streams"] if state else {}
        self._streams = {
            i: Stream(source, i, self.streams, seq_len + 1, crop, states.get(str(i)))
            for i in range(ranks.rank, self.streams, ranks.world)
        }

    def _make(self) -> Step:
        mine = range(self.row + self.ranks.rank, self.row + self.rows, self.ranks.world)
        packed = [self._streams[n % self.streams].next_row() for n in mine]
        self.row += self.rows
        # numpy, since torch would start threads of its own here, in the way of the training step
        ids = np.stack([row for row, _ in packed])
        targets = np.where(np.stack([mask[1:] for _, mask in packed]), ids[:, 1:], -1)
        micro = [
            Batch(
                torch.from_numpy(ids[i : i + self.micro_rows, :-1].copy()),
                torch.from_numpy(targets[i : i + self.micro_rows]),
            )
            for i in range(0, len(packed), self.micro_rows)
        ]
        return Step(micro, int((targets >= 0).sum()), self._state())

    def _state(self) -> dict[str, Any]:
        """This rank's streams; `merge_states` joins the ranks'."""
        streams = {str(i): s.state() for i, s in self._streams.items()}
        return {"version": STATE_VERSION, "row": self.row, "of": self.streams, "streams": streams}

    def __iter__(self) -> Iterator[Step]:
        ready: queue.Queue[Step | BaseException] = queue.Queue(AHEAD)
        stop = threading.Event()

        def work() -> None:
            try:
                while not stop.is_set():
                    _put(ready, self._make(), stop)
            except BaseException as error:  # handed to the consumer, who raises it
                _put(ready, error, stop)

        thread = threading.Thread(target=work, daemon=True, name="loader")
        thread.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join(LEAVE)  # one that waits for a shard stays behind, and ends with the process


def _put(ready: queue.Queue[Step | BaseException], item: Step | BaseException, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            return ready.put(item, timeout=0.2)
        except queue.Full:
            continue


def merge_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """One state for any number of ranks from the states of all ranks."""
    merged: dict[str, Any] = {**states[0], "streams": {}}
    for s in states:
        merged["streams"].update(s["streams"])
    return merged
