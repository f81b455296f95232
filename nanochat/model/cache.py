"""The KV cache: keys and values of the positions already seen, for many sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from nanochat.model.attention import Pages, attend, attend_pages, attend_seen, reads_pages, seen
from nanochat.model.config import ModelConfig


class Past(Protocol):
    """What the sequences of a forward pass hold already, and where their new keys and values go.

    positions: (B, T) of the new tokens. before: (B,) the token before each row's first new one, -1 where there is none.
    length: no position is as large.
    """

    @property
    def positions(self) -> Tensor: ...

    @property
    def before(self) -> Tensor: ...

    @property
    def length(self) -> int: ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        """Keep k and v (B, G, T, D), and let q (B, H, T, D) look at all that it sees -> (B, H, T, D)."""
        ...


@dataclass(frozen=True)
class Bounds:
    """What the host knows of a forward pass's rows, so that it need not wait for the device.

    new: new tokens of every row. low: no position is smaller. high: all positions are smaller. level: all rows are at
    the same position. rows: the slots, where they are neighbours in order, else None.
    """

    new: int
    low: int
    high: int
    level: bool = False
    rows: slice | None = None

    @classmethod
    def of(cls, slots: Sequence[int], starts: Sequence[int], new: int) -> Bounds:
        low, high, first = min(starts), max(starts), slots[0]
        neighbours = all(slot == place for place, slot in enumerate(slots, first))
        return cls(new, low, high + new, low == high, slice(first, first + len(slots)) if neighbours else None)


class KVCache:
    """Keys and values of many sequences of up to `length` positions, each in a slot of its own.

    keys, values: (depth, slots * room + page, kv_heads, head_dim). page: positions that attention finds by one number.
    room: positions of a slot, in whole pages. The page behind all slots, at slot number `slots`, is for rows that only
    fill up.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        length: int,
        device: torch.device | str,
        dtype: torch.dtype,
        page: int = 1,
    ) -> None:
        self.slots, self.length, self.page = slots, length, page
        self.room = -(-length // page) * page
        shape = (config.depth, slots * self.room + page, config.kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.paged = reads_pages(self.keys.device, dtype, config.head_dim, page)

    def continued(self, slots: Sequence[int], starts: Sequence[int], before: Sequence[int], new: int) -> Rows:
        """Rows of `new` tokens each, which continue these slots at `starts`; before: as in `Past`."""
        given = sent(list(zip(slots, starts, before, strict=True)), self.keys.device)
        bounds = Bounds.of(slots, starts, new)
        if bounds.high > self.length:
            raise ValueError(f"{bounds.high} positions do not fit in a cache of {self.length}")
        return Rows(self, given, bounds)

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of a slot to others."""
        for held in (self.keys, self.values):
            by_slot = self.by_slot(held)
            for target in targets:
                by_slot[:, target, :length] = by_slot[:, source, :length]

    def clear(self, slot: int) -> None:
        for held in (self.keys, self.values):
            self.by_slot(held)[:, slot] = 0

    def take(self, other: KVCache) -> None:
        """Copy all slots of a smaller cache into the first of this one."""
        for mine, held in ((self.keys, other.keys), (self.values, other.values)):
            self.by_slot(mine)[:, : other.slots, : other.room] = other.by_slot(held)

    def by_slot(self, held: Tensor) -> Tensor:
        """keys or values as (depth, slots, room, kv_heads, head_dim)."""
        return held[:, : self.slots * self.room].unflatten(1, (self.slots, self.room))


class Rows:
    """A `Past`: rows side by side, of one length, which overwrite what their slots hold from their starts on.

    given: (B, 3) slot, start and the token before of every row. Masks and page tables are made once, for all layers.
    """

    def __init__(self, cache: KVCache, given: Tensor, bounds: Bounds) -> None:
        self.cache, self.bounds, self.length = cache, bounds, cache.length
        self.slots, self.starts, self.before = given.unbind(1)
        self.positions = self.starts[:, None] + torch.arange(bounds.new, device=given.device)
        self._places = (self.slots[:, None] * cache.room + self.positions).flatten()
        self._masks: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        cache, bounds = self.cache, self.bounds
        for held, new in ((cache.keys[layer], k), (cache.values[layer], v)):
            held.index_copy_(0, self._places, new.transpose(1, 2).flatten(0, 1))
        if bounds.high == bounds.new:  # there are no older tokens
            return attend(q, k, v, window, scale)
        if cache.paged:
            keys, values = (held[layer].unflatten(0, (-1, cache.page)) for held in (cache.keys, cache.values))
            return attend_pages(q, keys, values, self._pages, window, scale)
        begin = max(0, bounds.low - window)
        k, v = (self._held(cache.by_slot(held)[layer, :, begin : bounds.high]) for held in (cache.keys, cache.values))
        return attend_seen(q, k, v, self._mask(begin, window), scale)

    def _held(self, held: Tensor) -> Tensor:
        """(B, G, keys, D) of one layer's keys or values (slots, keys, G, D)."""
        if self.bounds.rows is not None:
            return held[self.bounds.rows].transpose(1, 2)
        return held[self.slots.clamp_max(self.cache.slots - 1)].transpose(1, 2)  # rows that only fill up see any

    def _mask(self, begin: int, window: int) -> Tensor | None:
        if self.bounds.level and self.bounds.new == 1:
            return None  # there are no keys but those it sees
        if window not in self._masks:
            self._masks[window] = seen(self.positions, begin, self.bounds.high, window)
        return self._masks[window]

    @cached_property
    def _pages(self) -> Pages:
        each = self.cache.room // self.cache.page
        table = self.slots[:, None] * each + torch.arange(each, device=self.slots.device)
        last = self.cache.slots * each  # the page behind all slots
        return Pages(table.clamp_max(last), self.starts + self.bounds.new, self.cache.room)


def sent(values: Sequence[object], device: torch.device) -> Tensor:
    """Integers on a device, without waiting for it."""
    made = torch.tensor(values, dtype=torch.long)
    return made.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else made.to(device)
