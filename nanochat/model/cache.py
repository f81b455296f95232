"""Keys and values of the positions already seen, one slot per row."""

from __future__ import annotations

import torch
from torch import Tensor

from nanochat.model.config import ModelConfig


class KVCache:
    """Keys and values for `batch` rows of up to `max_len` positions; rows may have different lengths.

    keys, values: (depth, batch, kv_heads, max_len, head_dim). length: (batch,) positions held per row.
    """

    def __init__(self, config: ModelConfig, batch: int, max_len: int, device: torch.device | str, dtype: torch.dtype):
        self.config = config
        self.max_len = max_len
        shape = (config.depth, batch, config.kv_heads, max_len, config.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = torch.zeros(batch, device=device, dtype=torch.long)

    @property
    def batch(self) -> int:
        return self.length.numel()

    def positions(self, new: int) -> Tensor:
        """(batch, new) positions at which the next `new` tokens of every row stand."""
        positions = self.length[:, None] + torch.arange(new, device=self.length.device)
        if int(self.length.max()) + new > self.max_len:
            raise ValueError(f"{int(self.length.max())} + {new} positions do not fit in a cache of {self.max_len}")
        return positions

    def put(self, layer: int, positions: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (batch, kv_heads, new, head_dim) at `positions`; return all up to the longest row."""
        end = int(positions.max()) + 1
        rows = torch.arange(self.batch, device=positions.device)[:, None]
        self.keys[layer][rows, :, positions] = k.transpose(1, 2)
        self.values[layer][rows, :, positions] = v.transpose(1, 2)
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, new: int) -> None:
        self.length += new

    def reset(self, rows: Tensor | None = None) -> None:
        """Forget the given rows, or all."""
        if rows is None:
            self.length.zero_()
        else:
            self.length[rows] = 0

    def select(self, rows: Tensor) -> KVCache:
        """A new cache made of the given rows of this one, in that order; a row may be repeated."""
        other = object.__new__(KVCache)
        other.config, other.max_len = self.config, self.max_len
        other.keys, other.values, other.length = self.keys[:, rows], self.values[:, rows], self.length[rows]
        return other

    def insert(self, rows: Tensor, other: KVCache) -> None:
        """Overwrite the given rows with those of `other`, which has as many, or one that is repeated."""
        end = int(other.length.max())
        self.keys[:, rows, :, :end] = other.keys[:, :, :, :end]
        self.values[:, rows, :, :end] = other.values[:, :, :, :end]
        self.length[rows] = other.length
