"""What a safetensors file holds, by its header alone: 8 bytes with its length, JSON, and then the numbers.

A file is checked before anything is loaded, since a stranger may have written it together with a manifest that fits.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.reading import MB, fits, open_regular, parse_json, shown

LONGEST = 8 * MB  # of a header: a thousand layers need one
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
DIMENSIONS = 8  # at most; the product of a million sizes takes hours
NAMED = 3  # tensors that an error names


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file. dtype: safetensors' name for it, such as "F32"."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} of {' x '.join(map(str, self.shape)) or 'one number'}"


def read_header(path: Path) -> dict[str, Stored]:
    """Name -> tensor of a safetensors file whose tensors fill it without gaps; UserError for any other file."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"it has {size:,} bytes, which is too short")
            if length > LONGEST:
                raise ValueError(f"its header has {length:,} bytes")
            header = parse_json(file.read(length).decode("utf-8"))
        return _tensors(header, size - 8 - length)
    except OSError as error:
        raise _damaged(path, error.strerror or error) from None
    except ValueError as error:
        raise _damaged(path, error) from None


def _tensors(header: Any, size: int) -> dict[str, Stored]:
    """The tensors of a header that lists exactly `size` bytes of numbers."""
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    if not fits(header.pop("__metadata__", {}), dict[str, str]):
        raise ValueError("its header's __metadata__ is not text")
    found, places = {}, []
    for name, facts in header.items():
        if not isinstance(facts, dict) or set(facts) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"its header does not describe the tensor {shown(name)}")
        dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
        if not isinstance(dtype, str) or dtype not in BYTES:
            raise ValueError(f"the tensor {shown(name)} has the unknown type {shown(dtype)}")
        if not all(fits(x, list[int]) and min(x, default=0) >= 0 for x in (shape, offsets)) or len(offsets) != 2:
            raise ValueError(f"the tensor {shown(name)} has an impossible shape or place")
        if len(shape) > DIMENSIONS:
            raise ValueError(f"the tensor {shown(name)} has {len(shape):,} dimensions")
        begin, end = offsets
        if end - begin != math.prod(shape) * BYTES[dtype]:
            raise ValueError(f"the tensor {shown(name)} has not as many bytes as its shape needs")
        places.append((begin, end, name))
        found[name] = Stored(dtype, tuple(shape))
    at = 0
    for begin, end, name in sorted(places):
        if begin != at:
            raise ValueError(f"the tensor {shown(name)} does not begin where the one before it ends")
        at = end
    if at != size:
        raise ValueError(f"its tensors have {at:,} bytes, and the file {size:,} for them")
    return found


def require_tensors(path: Path, needed: Mapping[str, Stored]) -> None:
    """UserError unless the safetensors file holds exactly these tensors."""
    found = read_header(path)
    wrong = [f"{name} is {found[name]} instead of {need}" for name, need in needed.items() if name in found
             and found[name] != need]  # fmt: skip
    problems = [
        _some("it lacks", [name for name in needed if name not in found]),
        _some("it has an unknown", [shown(name) for name in found if name not in needed]),
        _some("", wrong),
    ]
    if told := "; ".join(filter(None, problems)):
        raise UserError(f"{path} does not fit its config.json: {told}", "Take the checkpoint from its source again")


def require_parts(path: Path, whole: Mapping[str, Stored]) -> None:
    """UserError unless every tensor in the safetensors file belongs to one of these and is no larger, as an optimiser's
    moments are: "head.weight.momentum" belongs to "head.weight"."""
    for name, stored in read_header(path).items():
        owner = whole.get(name.rpartition(".")[0])
        if owner is None or math.prod(stored.shape) > math.prod(owner.shape):
            problem = f"{path} does not fit the model: {shown(name)} is {stored}"
            raise UserError(problem, "Take the checkpoint from its source again")


def _some(what: str, names: Iterable[str]) -> str:
    """ "it lacks a, b, c and 5 more"; "" without names."""
    names = list(names)
    if not names:
        return ""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{what} {', '.join(names[:NAMED])}{more}".strip()


def _damaged(path: Path, why: object) -> UserError:
    return UserError(f"{path} is no whole safetensors file: {why}", "Take the checkpoint from its source again")
