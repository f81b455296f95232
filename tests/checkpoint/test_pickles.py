"""Pickles and torch.save's files are read as data: whatever is in them, nothing runs and memory stays bounded."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.checkpoint.pickles import LARGEST, Call, RunsCodeError, read_pickle
from nanochat.checkpoint.torchfile import read_tensors
from nanochat.console import UserError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.binary(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain, st.integers(3, pickle.HIGHEST_PROTOCOL))  # before 3, bytes were calls
def test_plain_objects_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert read_pickle(data, "file", ()) == pickle.loads(data)  # noqa: S301 - our own data


opcodes = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])


@settings(max_examples=300)
@given(st.lists(opcodes | st.binary(max_size=6), max_size=30).map(b"".join))
def test_any_bytes_give_an_object_or_a_sentence(data: bytes) -> None:
    said = "file "
    try:
        read_pickle(data, "file", {"a.b"})
    except UserError as error:
        said = str(error)
    assert said.startswith("file ")


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(os.system),
        pickle.dumps(os.system, 0),
        b"cposix\nsystem\n(S'true'\ntR.",
        b"(S'true'\niposix\nsystem\n.",
        b"(cposix\nsystem\nS'true'\no.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
    ],
    ids=range(6),
)
def test_a_name_is_refused_however_it_is_written(data: bytes) -> None:
    with pytest.raises(RunsCodeError, match="it calls 'posix.system'"):
        read_pickle(data, "file", {"tiktoken.core.Encoding"})


def test_an_allowed_call_is_only_written_down() -> None:
    data = b"cposix\nsystem\n(X\x05\x00\x00\x00falsetR."
    seen: list[Call] = []
    said = read_pickle(data, "file", {"posix.system"}, seen.append)
    assert isinstance(said, Call) and (said.name, said.args) == ("posix.system", ("false",)) and seen == [said]


@pytest.mark.parametrize(
    "data",
    [
        b"Nr\xff\xff\xff\x7f.",  # a memo of 2^31 places
        b"\x8e" + (1 << 60).to_bytes(8, "little") + b"x.",  # 2^60 bytes
        b"\x8d" + (1 << 60).to_bytes(8, "little") + b"x.",
        b"\x8b\xff\xff\xff\x7f.",
        b"]" + b"q\x00](h\x00h\x00e" * 5000 + b".",  # 2^5000 leaves, if they were counted
        b"L" + b"9" * 100_000 + b"L\n.",
        b"}" + b")" + b"\x85" * 200_000 + b"Ns.",  # a key whose hash needs 200,000 calls
        b")" + b"\x85" * 200_000 + b".",
    ],
    ids=range(8),
)
def test_small_pickles_do_not_grow(data: bytes) -> None:
    tracemalloc.start()
    try:
        read_pickle(data, "file", ())
    except UserError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200e6


def test_a_pickle_that_is_too_long() -> None:
    with pytest.raises(UserError, match="more than such a file needs"):
        read_pickle(b"]" * (LARGEST + 1), "file", ())


def test_tensors_of_every_kind(tmp_path: Path) -> None:
    saved = collections.OrderedDict(
        half=torch.randn(3, 4).bfloat16(),
        turned=torch.randn(3, 4).T,
        part=torch.randn(5)[2:4],
        parameter=torch.nn.Parameter(torch.randn(2)),
        number=torch.tensor(3),
        none=torch.zeros(0, 7),
        nested={"a": [1, 2.5, None, (torch.ones(2), True)]},
    )
    torch.save(saved, tmp_path / "x.pt")
    there = read_tensors(tmp_path / "x.pt")
    for name, value in saved.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(there[name], value) and there[name].dtype == value.dtype
    assert torch.equal(there["nested"]["a"][3][0], torch.ones(2))


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    change(parts)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


class Saying:
    """A tensor with a description of its own."""

    def __init__(self, *args: Any):
        self.args = args

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, self.args


def described(
    path: Path, offset: Any, shape: Any, strides: Any, kind: Any = torch.FloatStorage, count: Any = 4
) -> None:
    """A file with one storage of 16 bytes, and a tensor that is described so."""
    torch.save({"x": torch.ones(4)}, path)

    class Pickler(pickle.Pickler):
        def persistent_id(self, found: Any) -> Any:
            return ("storage", kind, "0", "cpu", count) if found is Ellipsis else None

    out = io.BytesIO()
    Pickler(out, 2).dump({"x": Saying(..., offset, shape, strides, False, collections.OrderedDict())})
    rewritten(path, lambda parts: parts.update({f"{path.stem}/data.pkl": out.getvalue()}))


@pytest.mark.parametrize(
    "how",
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (10**12,), (1,)),
        (0, (10**12,), (0,)),  # 4 bytes that pass for 4 TB
        (0, (2, 2), (10**15, 1)),
        (-1, (1,), (1,)),
        (0, (-4,), (1,)),
        (0, (4,), (-1,)),
        (0, (2, 2), (1,)),
        (0, ("4",), (1,)),
        (0, 4, 1),
        (0, (4,), (1,), torch.FloatStorage, 5),  # the storage is smaller than declared
        (0, (4,), (1,), torch.DoubleStorage, 4),
        (0, (4,), (1,), torch.FloatStorage, 10**15),
        (0, (4,), (1,), torch.FloatStorage, None),
        (0, (0, *[10**4000] * 9), (1,) * 10),  # products take minutes
        (0, (1,) * 17, (1,) * 17),
    ],
    ids=range(17),
)
def test_tensors_that_are_not_in_the_file(tmp_path: Path, how: tuple[Any, ...]) -> None:
    described(tmp_path / "x.pt", 0, (2, 2), (2, 1))
    assert torch.equal(read_tensors(tmp_path / "x.pt")["x"], torch.ones(2, 2))
    described(tmp_path / "x.pt", *how)
    with pytest.raises(UserError, match="x.pt is cut off or damaged"):
        read_tensors(tmp_path / "x.pt")


def test_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"

    def refused(change: Callable[[dict[str, bytes]], None], **how: int) -> None:
        torch.save({"x": torch.ones(4)}, path)
        rewritten(path, change, **how)
        with pytest.raises(UserError, match="x.pt is cut off or damaged"):
            read_tensors(path)

    refused(lambda parts: None, compression=zipfile.ZIP_DEFLATED)
    refused(lambda parts: parts.update({"x/data/0": b"\0" * 15}))
    refused(lambda parts: parts.update({"y/data.pkl": b"N."}))
    refused(lambda parts: parts.clear())
    refused(lambda parts: parts.update({"x/data.pkl": b""}))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x/version", b"3")
    with pytest.raises(UserError, match="same name"):
        read_tensors(path)
    with pytest.raises(UserError, match="it is a folder"):
        read_tensors(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    with pytest.raises(UserError, match="no regular file"):
        read_tensors(tmp_path / "pipe")


def test_calls_that_torchs_own_reader_allows(tmp_path: Path) -> None:
    """weights_only lets bytearray(10**12) through: ours does not."""
    torch.save({"x": torch.ones(4)}, tmp_path / "x.pt")
    bomb = b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x10\xa5\xd4\xe8\x00\x85R."
    rewritten(tmp_path / "x.pt", lambda parts: parts.update({"x/data.pkl": bomb}))
    with pytest.raises(RunsCodeError, match=r"builtins.bytearray"):
        read_tensors(tmp_path / "x.pt")
    made = b"\x80\x02ctorch\nFloatStorage\n\x8a\x06\x00\x10\xa5\xd4\xe8\x00\x85R."
    rewritten(tmp_path / "x.pt", lambda parts: parts.update({"x/data.pkl": made}))
    with pytest.raises(UserError, match=r"it calls torch.FloatStorage"):
        read_tensors(tmp_path / "x.pt")


def with_directory_of(path: Path, shown: dict[str, bytes], hidden: dict[str, bytes]) -> None:
    """An archive with two directories of one size: Python reads that of `shown`, and torch that of `hidden`."""

    def zipped(parts: dict[str, bytes], before: int) -> tuple[bytes, bytes, bytes]:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in parts.items():
                archive.writestr(zipfile.ZipInfo(name), data)
            start = archive.start_dir
        raw = out.getvalue()
        directory, at = bytearray(raw[start:-22]), 0
        while at < len(directory):
            more = sum(struct.unpack("<HHH", directory[at + 28 : at + 34]))
            (begin,) = struct.unpack("<I", directory[at + 42 : at + 46])
            directory[at + 42 : at + 46] = struct.pack("<I", (begin + before) & 0xFFFFFFFF)
            at += 46 + more
        return raw[:start], bytes(directory), raw[-22:]

    size = len(zipped(hidden, 0)[1])
    first, one, end = zipped(hidden, size + 8)
    second, two, _ = zipped(shown, 8 + len(first))  # Python adds the `size` bytes that lie in between
    assert len(one) == len(two) == size
    place = struct.pack("<II", size, size + 8 + len(first) + len(second))
    path.write_bytes(b"PK\3\4" + bytes(size + 4) + first + second + one + two + end[:12] + place + end[20:])


def test_an_archive_with_two_directories(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": torch.ones(4)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    hidden = {**parts, "x/data.pkl": b"\x80\x02}X\x01\0\0\0xcbuiltins\nbytearray\nK\x07\x85Rs."}
    with_directory_of(path, parts, hidden)
    assert torch.load(path, weights_only=True) == {"x": bytearray(7)}
    with zipfile.ZipFile(path) as archive:
        assert archive.read("x/data.pkl") == parts["x/data.pkl"]
    with pytest.raises(UserError, match="its directory is not where it says"):
        read_tensors(path)


def test_a_file_with_the_long_directory_of_large_ones(tmp_path: Path) -> None:
    with torch.serialization.skip_data():
        torch.save({"x": torch.empty((1 << 30) + 1), "y": torch.ones(1)}, tmp_path / "x.pt")  # 4 GB, a hole
    assert read_tensors(tmp_path / "x.pt")["x"].numel() == (1 << 30) + 1


def test_tensors_that_share_numbers_do_not_grow(tmp_path: Path) -> None:
    one = torch.ones(10_000)
    torch.save([one, one[:5000]], tmp_path / "x.pt")
    with pytest.raises(UserError, match="its tensors share numbers"):
        read_tensors(tmp_path / "x.pt")


def test_a_state_that_torch_would_set_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(4)}, tmp_path / "x.pt")
    rewritten(tmp_path / "x.pt", lambda p: p.update({"x/data.pkl": p["x/data.pkl"][:-2] + b")bs."}))
    with pytest.raises(UserError, match="it sets the state of something"):
        read_tensors(tmp_path / "x.pt")


def test_tensors_stay_in_the_file(tmp_path: Path) -> None:
    with torch.serialization.skip_data():
        torch.save({"x": torch.empty(1 << 29)}, tmp_path / "x.pt")  # 2 GB, all of it a hole
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom nanochat.checkpoint.torchfile import read_tensors\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert read_tensors(Path(sys.argv[1]))['x'].numel() == 1 << 29\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.pt"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # kB
