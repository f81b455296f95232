"""Packs documents into the micro-batches of an optimiser step, the same for any number of ranks.

Row n of the run comes from stream n % STREAMS and goes to rank n % world. So all ranks together get the same rows for
any number of ranks that divides the rows of a step. A rank packs every stream that one of its rows comes from:
STREAMS / gcd(STREAMS, world) of them. So 2, 4, 8 and 16 ranks share the work; with an odd number, each does all of
it, and beyond 16, each does at least a sixteenth. Since one core packs 8 million tokens a second, this matters only
from about fifty GPUs on: then use a number of ranks divisible by a large power of two.

Reading, tokenising and packing run ahead in a thread.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nanochat.console import UserError
from nanochat.feed.packing import BUFFER, ENDLESS, REFILL, Example, Source, Stream
from nanochat.machine import Ranks

if TYPE_CHECKING:
    from nanochat.corpus import Shards
    from nanochat.tokenizer import Tokenizer

STREAMS = 16
AHEAD = 4  # steps packed in advance
LEAVE = 2.0  # seconds to wait for the packing thread at the end
STATE_VERSION = 2


@dataclass(frozen=True)
class MicroBatch:
    """ids and targets (B, T) int64; a target of -1 carries no loss."""

    ids: Tensor
    targets: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The arguments of the loss function, each (B, ...)."""
        return self.ids, self.targets


@dataclass(frozen=True)
class Step:
    """This rank's part of an optimiser step. valid: its number of targets with loss. state: the loader's after it."""

    micro: list[MicroBatch]
    valid: int
    state: dict[str, Any]


class TextSource:
    """Documents of text shards as <|bos|> + tokens, without end.

    After the last document it starts over, so the first epoch can run before the number of documents is known (and
    before all shards have arrived).
    """

    def __init__(self, shards: Shards, tokenizer: Tokenizer):
        self.shards, self.tokenizer = shards, tokenizer
        self._bos = np.array([tokenizer.bos], np.uint32)

    def __len__(self) -> int:
        return ENDLESS

    def get(self, indices: list[int]) -> list[Example]:
        texts = self.shards.get_many([self.shards.wrapped(index) for index in indices])
        return [Example(np.concatenate([self._bos, ids])) for ids in self.tokenizer.encode_arrays(texts)]


class Loader:
    """Iterates over `Step`s without end.

    seq_len: T. rows: sequences per step over all ranks. micro_rows: B, sequences per forward pass;
    the last pass may have fewer. crop: see packing. pin: into memory that a GPU reads while the host goes on.
    short: that many steps at the beginning have twice as many sequences, half as long.
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
        pin: bool = False,
        short: int = 0,
    ):
        if len(source) == 0:
            raise UserError("the data has no documents", "Prepare it with python -m nanochat.dataset")
        if state and state.get("version") != STATE_VERSION:
            raise UserError(
                f"the data position saved in this checkpoint has format version {state.get('version')!r:.40}, "
                f"not {STATE_VERSION}",
                "Start anew with --fresh",
                "Move the checkpoints of this run away",
            )
        if rows % ranks.world:
            fewer = max(n for n in range(1, ranks.world) if rows % n == 0)
            raise UserError(
                f"{rows} sequences a step cannot be dealt to {ranks.world} ranks",
                f"Use a number of ranks that divides {rows}, such as {fewer}",
            )
        if state and not _is_position(state):
            raise UserError("the data position saved in this checkpoint cannot be read", "Start anew with --fresh")
        self.rows, self.micro_rows, self.ranks, self.seq_len = rows, micro_rows, ranks, seq_len
        self._pin, self._short = pin, short
        self.row = state["row"] if state else 0  # rows dealt so far, over all ranks
        self.streams = state["of"] if state else STREAMS
        apart = math.gcd(self.streams, ranks.world)  # distance between a rank's rows, and so its streams
        states = state["streams"] if state else {}
        mine = range(ranks.rank % apart, self.streams, apart)
        self._streams = {i: Stream(source, i, self.streams, seq_len + 1, crop, states.get(str(i))) for i in mine}

    def shorten(self, step: int, short: int) -> int:
        """Make no more than `short` short steps, once those that a rank may have made in advance are used up; returns
        how many there will be. step: number of the one that is taken now, counted from 0."""
        made = step + 1 + AHEAD + 1  # AHEAD wait, and one waits to wait
        self._short = min(self._short, max(short, made))
        return self._short

    def _make(self) -> Step:
        packed = []
        times = 2 if self.row < 2 * self.rows * self._short else 1
        rows, at_once = times * self.rows, times * self.micro_rows
        for n in range(self.row, self.row + rows):
            if stream := self._streams.get(n % self.streams):
                stream.cut_to(self.seq_len // times + 1)
                row = stream.next_row()  # also for another rank's row: the stream must move on
                if n % self.ranks.world == self.ranks.rank:
                    packed.append(row)
        self.row += rows
        # numpy, since torch would start threads here that slow down the training step
        ids = np.stack([row for row, _ in packed])
        targets = np.where(np.stack([mask[1:] for _, mask in packed]), ids[:, 1:], -1)
        micro = [
            MicroBatch(
                torch.from_numpy(ids[i : i + at_once, :-1].copy()),
                torch.from_numpy(targets[i : i + at_once]),
            )
            for i in range(0, len(packed), at_once)
        ]
        if self._pin:
            micro = [MicroBatch(batch.ids.pin_memory(), batch.targets.pin_memory()) for batch in micro]
        return Step(micro, int((targets >= 0).sum()), self._state())

    def _state(self) -> dict[str, Any]:
        """The state of this rank's streams; `merge_states` joins those of all ranks."""
        streams = {str(i): s.state() for i, s in self._streams.items()}
        return {"version": STATE_VERSION, "row": self.row, "of": self.streams, "streams": streams}

    def ahead(self) -> Ahead:
        return Ahead(self._make)

    def __iter__(self) -> Iterator[Step]:
        with closing(self.ahead()) as ahead:
            while True:
                if step := ahead.get(1.0):
                    yield step


def _is_position(state: dict[str, Any]) -> bool:
    """Whether a state from a file, which anybody may have written, has the form that `Loader._state` gives."""

    def is_count(value: Any, least: int = 0) -> bool:
        return type(value) is int and least <= value < 1 << 62

    def is_stream(value: Any) -> bool:
        docs = value.get("docs") if isinstance(value, dict) else None
        return (
            isinstance(docs, list | tuple)
            and len(docs) <= 2 * (BUFFER + REFILL)
            and all(isinstance(doc, list | tuple) and len(doc) == 2 for doc in docs)
            and all(is_count(number) and is_count(start, 1) for number, start in docs)
            and all(is_count(value.get(name, 0)) for name in ("next", "repeated", "shift"))
            and "next" in value
        )

    row, of, streams = (state.get(name) for name in ("row", "of", "streams"))
    return (
        is_count(row)
        and isinstance(of, int)
        and is_count(of, 1)
        and of <= 1024
        and isinstance(streams, dict)
        and streams.keys() == {str(i) for i in range(of)}
        and all(map(is_stream, streams.values()))
    )


class Ahead:
    """Steps made in advance, in a thread that runs until `close`."""

    def __init__(self, make: Callable[[], Step]) -> None:
        self._make = make
        self._ready: queue.Queue[Step | BaseException] = queue.Queue(AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="loader")
        self._thread.start()

    def get(self, seconds: float) -> Step | None:
        """The next step, or None if it is not ready within `seconds`; raises the exception of the thread, if any."""
        try:
            item = self._ready.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        self._thread.join(LEAVE)  # a thread that waits for a shard ends with the process

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self._put(self._make())
        except BaseException as error:  # handed to the consumer, who raises it
            self._put(error)

    def _put(self, item: Step | BaseException) -> None:
        while not self._stop.is_set():
            try:
                return self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue


def merge_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge the states of all ranks into one for any number of ranks; ranks with the same stream agree on it."""
    merged: dict[str, Any] = {**states[0], "streams": {}}
    for s in states:
        merged["streams"].update(s["streams"])
    return merged
