"""The optimiser's state in a checkpoint, which several ranks may have written: one file each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

SLICE = re.compile(r"(.+)\[(\d{1,18}):(\d{1,18})\]", re.ASCII)


class Saved(Mapping[str, Tensor]):
    """Whole tensors by name, read when asked for: each rank needs a part only. A tensor that ranks shared is flat.

    KeyError when a slice is missing. SafetensorError when a file is none of safetensors.
    """

    def __init__(self, files: Iterable[Path]):
        self._whole: dict[str, tuple[Any, str]] = {}
        self._slices: dict[str, list[tuple[int, int, Any, str]]] = {}
        for path in files:
            file = safe_open(path, framework="pt")
            for key in file.keys():  # noqa: SIM118 - it is no dict
                if found := SLICE.fullmatch(key):
                    self._slices.setdefault(found[1], []).append((int(found[2]), int(found[3]), file, key))
                else:
                    self._whole[key] = file, key
        for parts in self._slices.values():
            parts.sort(key=lambda part: part[:2])

    def __getitem__(self, name: str) -> Tensor:
        if name in self._whole:
            file, key = self._whole[name]
            return file.get_tensor(key)
        parts = self._slices[name]
        tensors, end = [], 0
        for begin, stop, file, key in parts:
            tensor = file.get_tensor(key)
            if begin != end or tensor.numel() != stop - begin:
                raise KeyError(f"{name}[{end}:{begin}]")
            tensors.append(tensor)
            end = stop
        return torch.cat(tensors)

    def __iter__(self) -> Iterator[str]:
        yield from self._whole
        yield from self._slices

    def __len__(self) -> int:
        return len(self._whole) + len(self._slices)
