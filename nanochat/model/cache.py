"""The KV cache: keys and values of the positions already seen, for every row."""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat.model.config import ModelConfig


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

    def put(self, layer: int, positions: Tensor, k: Tensor, v: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Store k, v (batch, kv_heads, new, head_dim) at `positions`; return the first `end` positions of all rows."""
        rows = torch.arange(self.batch, device=positions.device)[:, None]
        self.keys[layer][rows, :, positions] = k.transpose(1, 2)
        self.values[layer][rows, :, positions] = v.transpose(1, 2)
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

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
