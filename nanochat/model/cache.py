"""The KV cache: keys and values of the positions already seen, for every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nanochat.model.attention import attend, attend_cached, attend_seen, seen
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

    low: the first new position, of all rows. high: one past the last. new: tokens of every row. level: all rows are at
    the same position. rows: where the slots are neighbours in order, else None.
    """

    low: int
    high: int
    new: int
    level: bool
    rows: slice | None

    @classmethod
    def of(cls, slots: Sequence[int], starts: Sequence[int], new: int) -> Bounds:
        low, high, first = min(starts), max(starts), slots[0]
        neighbours = list(slots) == list(range(first, first + len(slots)))
        return cls(low, high + new, new, low == high, slice(first, first + len(slots)) if neighbours else None)


class Slots:
    """Keys and values of many sequences of up to `length` positions, each in a slot of its own.

    keys, values: (depth, slots, length, kv_heads, head_dim).
    """

    def __init__(self, config: ModelConfig, slots: int, length: int, device: torch.device | str, dtype: torch.dtype):
        self.slots, self.length = slots, length
        shape = (config.depth, slots, length, config.kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of a slot to others."""
        for held in (self.keys, self.values):
            for target in targets:
                held[:, target, :length] = held[:, source, :length]

    def take(self, other: Slots) -> None:
        """Copy all of a smaller cache into the front of this one."""
        self.keys[:, : other.slots, : other.length] = other.keys
        self.values[:, : other.slots, : other.length] = other.values


class Rows:
    """A `Past`: rows side by side that continue the sequences in `slots` (B,) of a cache at `starts` (B,).

    All of one length, which overwrites what a slot holds from there on. Masks are made once, for all layers.
    """

    def __init__(self, cache: Slots, slots: Tensor, starts: Tensor, before: Tensor, bounds: Bounds) -> None:
        self.cache, self.slots, self.before, self.bounds = cache, slots, before, bounds
        self.length = cache.length
        self.positions = starts[:, None] + torch.arange(bounds.new, device=starts.device)
        self._places = (slots[:, None] * cache.length + self.positions).flatten()
        self._masks: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        cache, bounds = self.cache, self.bounds
        for held, new in ((cache.keys[layer], k), (cache.values[layer], v)):
            held.flatten(0, 1).index_copy_(0, self._places, new.transpose(1, 2).flatten(0, 1))
        if bounds.high == bounds.new:  # there are no older tokens
            return attend(q, k, v, window, scale)
        begin = max(0, bounds.low - window)
        k, v = (self._held(held[layer], begin) for held in (cache.keys, cache.values))
        return attend_seen(q, k, v, self._mask(begin, window), scale)

    def _held(self, held: Tensor, begin: int) -> Tensor:
        """(B, G, keys, D) of a layer's keys or values (slots, length, G, D)."""
        held = held[:, begin : self.bounds.high]
        chosen = held[self.slots] if self.bounds.rows is None else held[self.bounds.rows]
        return chosen.transpose(1, 2)

    def _mask(self, begin: int, window: int) -> Tensor | None:
        if self.bounds.level and self.bounds.new == 1:
            return None  # the window's keys are all there are
        if window not in self._masks:
            self._masks[window] = seen(self.positions, begin, self.bounds.high, window)
        return self._masks[window]


class KVCache:
    """Keys and values for `batch` rows of up to `max_len` positions; rows may have different lengths.

    keys, values: (depth, batch, kv_heads, max_len, head_dim). length: (batch,) positions held per row. last: (batch,)
    the newest token of every row (-1: none), which the modern model mixes into the next one.
    """

    def __init__(self, config: ModelConfig, batch: int, max_len: int, device: torch.device | str, dtype: torch.dtype):
        self.config = config
        self.max_len = max_len
        shape = (config.depth, batch, config.kv_heads, max_len, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = torch.zeros(batch, device=device, dtype=torch.long)
        self.last = torch.full_like(self.length, -1)

    @property
    def batch(self) -> int:
        return self.length.numel()

    @property
    def longest(self) -> int:
        """Positions held in the longest row."""
        return int(self.length.max())

    def positions(self, new: int) -> Tensor:
        """(batch, new) positions of the next `new` tokens of every row."""
        if self.longest + new > self.max_len:
            raise ValueError(f"{self.longest} + {new} positions do not fit in a cache of {self.max_len}")
        return self.length[:, None] + torch.arange(new, device=self.length.device)

    def continued(self, new: int) -> Past:
        return _Continued(self, self.positions(new), self.longest + new)

    def advance(self, ids: Tensor) -> None:
        """Count the tokens ids (batch, new), now that all layers have stored them."""
        self.length += ids.size(1)
        self.last = ids[:, -1].clone()

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget the given rows, or all."""
        if rows is None:
            self.length.zero_()
            self.last.fill_(-1)
        else:
            self.length[rows] = 0
            self.last[rows] = -1

    def select(self, rows: Tensor) -> KVCache:
        """A new cache made of the given rows of this one, in that order; a row may be repeated."""
        other = object.__new__(KVCache)
        other.config, other.max_len = self.config, self.max_len
        other.keys, other.values = self.keys[:, rows], self.values[:, rows]
        other.length, other.last = self.length[rows], self.last[rows]
        return other

    def insert(self, rows: Tensor, other: KVCache) -> None:
        """Overwrite the given rows with those of `other`, which has as many rows, or one for all."""
        end = other.longest
        self.keys[:, rows, :, :end] = other.keys[:, :, :, :end]
        self.values[:, rows, :, :end] = other.values[:, :, :, :end]
        self.length[rows], self.last[rows] = other.length, other.last


class _Continued:
    def __init__(self, cache: KVCache, positions: Tensor, end: int) -> None:
        self.cache, self.positions, self.end = cache, positions, end
        self.before, self.length = cache.last, cache.max_len

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        rows = torch.arange(self.cache.batch, device=self.positions.device)[:, None]
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[rows, :, self.positions], values[rows, :, self.positions] = k.transpose(1, 2), v.transpose(1, 2)
        if self.end == q.size(2):  # there are no older tokens
            return attend(q, k, v, window, scale)
        return attend_cached(q, keys[:, :, : self.end], values[:, :, : self.end], self.positions, window, scale)
