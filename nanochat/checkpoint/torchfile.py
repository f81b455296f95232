"""Tensors of a file that torch.save wrote: looked at as data first, then opened by torch's safe unpickler."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

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
DIMENSIONS = 16  # of a tensor at most
TAIL = 98  # bytes of the directory's end and, in a large file, of two records before it
ELSEWHERE = "Take the file from its source again"


def read_tensors(path: Path) -> Any:
    """What torch.save wrote: numbers, strings, lists, dicts and tensors, which stay in the file until they are used.

    UserError for a file that is cut off, that names anything but tensors, or whose tensors are not all in it. Before
    that, memory is taken for the description of the tensors only (at most LARGEST bytes, and what they become).
    """
    try:
        _inspect(path)
        # Mapped, so that a tensor takes memory only when it is used. torch's reader looks the file over once more.
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
        _require_one_directory(file, size, archive.start_dir)
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
        left = size  # bytes; tensors that share theirs would grow when they are copied

        def seen(call: Call) -> None:
            nonlocal left
            left -= _require_whole(call, sizes)
            if left < 0:
                raise ValueError("its tensors share numbers, and have more than the file")

        read_pickle(archive.read(pickles[0]), str(path), ALLOWED, seen)


def _require_one_directory(file: BinaryIO, size: int, start: int) -> None:
    """ValueError unless the file ends with the directory that Python read: else torch might read another one."""
    file.seek(max(0, size - TAIL))
    tail = file.read(TAIL)
    end = tail[-22:]
    length, offset = struct.unpack("<II", end[12:20])
    large = tail[-98:-22]  # the directory's end in files beyond 4 GB (56 bytes), and where that is (20)
    at = size - 22
    if large[:4] == b"PK\6\6" and large[56:60] == b"PK\6\7":
        length, offset = struct.unpack("<QQ", large[40:56])
        at -= 76
        if struct.unpack("<Q", large[64:72]) != (at,):
            raise ValueError("its directory is not where it says")
    if end[:4] != b"PK\5\6" or end[20:] != b"\0\0" or offset + length != at or offset != start:
        raise ValueError("its directory is not where it says")


def _require_whole(call: Call, sizes: dict[str, int]) -> int:
    """Bytes of the tensor that a call would make; ValueError unless it lies in its storage, and that in the file."""
    if call.name == PARAMETER:
        return 0
    if call.name != TENSOR:
        raise ValueError(f"it calls {call.name}")
    outside, offset, shape, strides = call.args[:4]
    kind, storage, key, _, count = outside.key if isinstance(outside, Outside) else ("", None, "", "", 0)
    if kind != "storage" or not isinstance(storage, Name) or storage.path not in STORAGES:
        raise ValueError("it has a tensor without numbers")
    numbers = [offset, count, *shape, *strides]
    if len(shape) > DIMENSIONS or len(shape) != len(strides) or any(type(n) is not int for n in numbers):
        raise ValueError("it has a tensor of an impossible shape")
    if min(numbers) < 0 or max(numbers) >= 2**63:
        raise ValueError("it has a tensor of an impossible shape")
    if sizes.get(key) != count * STORAGES[storage.path].itemsize:
        raise ValueError("it has fewer bytes than its tensors need")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > count or (0 not in shape and last >= count):
        raise ValueError("it has a tensor that is larger than its numbers")
    return math.prod(shape) * STORAGES[storage.path].itemsize
