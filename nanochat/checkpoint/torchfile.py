"""Tensors of a file that torch.save wrote: looked at as data first, then opened by torch's safe unpickler."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint.pickles import LARGEST, ORDERED, Call, Name, Outside, read_pickle
from nanochat.console import UserError
from nanochat.reading import open_regular

STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
TENSOR, PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
ALLOWED = {ORDERED, TENSOR, PARAMETER, *STORAGES}
ELSEWHERE = "Take the file from its source again"


def read_tensors(path: Path) -> Any:
    """What torch.save wrote: numbers, strings, lists, dicts and tensors, which stay in the file until they are used.

    UserError for a file that is cut off, that names anything but tensors, or whose tensors are not all in it; it is
    raised before any memory is taken for them.
    """
    try:
        _inspect(path)
        # Mapped, so that a tensor takes memory only when it is used. Both readers must find the file harmless.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}", ELSEWHERE) from None
    except Exception as error:  # a damaged file can fail in any way
        reason = str(error).strip().split("\n")[0][:150]
        raise UserError(f"{path} is cut off or damaged ({reason})", ELSEWHERE) from None


def _inspect(path: Path) -> None:
    """UserError unless the file only describes tensors, and holds all of them."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        size = os.fstat(file.fileno()).st_size
        files = {entry.filename: entry for entry in archive.infolist()}
        if len(files) < len(archive.infolist()):
            raise ValueError("two of its parts have the same name")
        if any(e.compress_type or e.header_offset + e.file_size > size for e in files.values()):
            raise ValueError("its parts are larger than the file")
        pickles = [name for name in files if name.endswith("/data.pkl")]
        if len(pickles) != 1 or files[pickles[0]].file_size > LARGEST:
            raise ValueError("it has no description of its tensors, or one that is too long")
        folder = pickles[0].removesuffix("data.pkl")
        sizes = {name.removeprefix(f"{folder}data/"): entry.file_size for name, entry in files.items()}
        read_pickle(archive.read(pickles[0]), str(path), ALLOWED, lambda call: _require_whole(call, sizes))


def _require_whole(call: Call, sizes: dict[str, int]) -> None:
    """ValueError unless the tensor that a call would make lies within its storage, and that in the file."""
    if call.name == PARAMETER:
        return
    if call.name != TENSOR:
        raise ValueError(f"it calls {call.name}")
    outside, offset, shape, strides = call.args[:4]
    kind, storage, key, _, count = outside.key if isinstance(outside, Outside) else ("", None, "", "", 0)
    if kind != "storage" or not isinstance(storage, Name) or storage.path not in STORAGES:
        raise ValueError("it has a tensor without numbers")
    numbers = [offset, count, *shape, *strides]
    if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("it has a tensor of an impossible shape")
    if sizes.get(key) != count * STORAGES[storage.path].itemsize:
        raise ValueError("it has fewer bytes than its tensors need")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > count or (0 not in shape and last >= count):
        raise ValueError("it has a tensor that is larger than its numbers")
