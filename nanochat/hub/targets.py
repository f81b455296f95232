"""Where a backup is kept: a folder, any file system that fsspec knows, or a Hub repository.

A file counts as sent only when what the far side holds, read back from there, has our hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from nanochat.console import UserError
from nanochat.paths import sync_folder
from nanochat.reading import open_regular

CHUNK = 4 << 20  # bytes moved at once
SECRET = re.compile(r"TOKEN|SECRET|PASSW|KEY|CREDENTIAL", re.IGNORECASE)
SHORTEST_SECRET = 8  # characters; "1" in some _KEY is no secret, and would be cut out of every number
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "adl"}
PART = ".nanochat-part"  # ends the name of a file that a writer has begun; nobody else's ends so
OnBytes = Callable[[int], None]


class DamagedHere(Exception):
    """A file here does not have the hash that it should have."""


@dataclass(frozen=True)
class Item:
    """A file to send. path: its place below the backup. source: the file here, with that size and SHA-256."""

    path: str
    source: Path
    size: int
    sha256: str


class Target(Protocol):
    """Paths are relative, with slashes. Whatever fails raises an exception; what was sent before stays."""

    url: str  # as the person gave it
    small_every: float  # seconds between two sends of files that grow, such as metrics
    beats: bool  # whether a small file may be written every few seconds, as a sign of life

    def check(self) -> None:
        """UserError unless there is room to write; makes the place when it is absent."""

    def files(self) -> dict[str, int]:
        """The size of every file there, by path."""

    def read(self, path: str, limit: int) -> bytes:
        """A small file; FileNotFoundError without it, ValueError when it is longer than `limit`."""

    def write(self, path: str, data: bytes) -> None:
        """A small file, which is not verified."""

    def put(self, items: Sequence[Item], on_bytes: OnBytes) -> None:
        """Send files in this order and verify each; one that is there already is not sent. DamagedHere for a file that
        changed here. on_bytes: called with the size of every piece that is done."""

    def fetch(self, path: str, size: int, part: Path, on_bytes: OnBytes) -> None:
        """Append to `part` what it lacks of the file, which has `size` bytes."""

    def move(self, old: str, new: str) -> None:
        """Give a folder another name. Called again after a kill, it does the rest."""

    def remove(self, folder: str, first: str) -> None:
        """Delete a folder; the file `first` in it before all others."""


def spare_of(path: str) -> str:
    """Where the new content of a file is kept while it replaces the old one, in a store where that may be cut short."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.next"


def said(error: BaseException) -> str:
    """An error as one short line, without what the environment keeps secret."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())[:200] or type(error).__name__
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    return text


def hash_of(file: BinaryIO, on_bytes: OnBytes = lambda n: None) -> str:
    """The SHA-256 of all that is still to be read."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK))
    while n := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(buffer[:n])
        on_bytes(n)
    return digest.hexdigest()


def require_own(item: Item) -> None:
    """DamagedHere when the file here is not what it should be: so the far side is not to blame."""
    with open(item.source, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != item.size or hash_of(file) != item.sha256:  # type: ignore[arg-type]
            raise DamagedHere(f"{item.source} is damaged: its SHA-256 is not that of its manifest")


class Folder:
    """A folder of this machine: another disk, or one of the network."""

    small_every, beats = 60.0, True

    def __init__(self, url: str, root: Path) -> None:
        self.url, self.root = url, Path(os.path.abspath(root))
        self._disk: int | None = None  # once it was checked

    def _require_same_disk(self) -> None:
        """OSError when the folder is gone, or its disk is: what is written to a bare mount point would be lost."""
        if self._disk is not None and self.root.stat().st_dev != self._disk:
            raise OSError(f"{self.root} is on another disk than it was")

    def check(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._disk = self.root.stat().st_dev
            probe = self.root / f".{os.getpid()}{PART}"
            probe.write_bytes(b"")
            probe.unlink()
            for left in self._left():
                left.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot write into {self.root}: {said(error)}", "Give --backup another place") from None

    def files(self) -> dict[str, int]:
        self._require_same_disk()
        found = {}
        for place, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                facts = os.lstat(os.path.join(place, name))
                if not name.startswith(".") and stat.S_ISREG(facts.st_mode):
                    found[Path(place, name).relative_to(self.root).as_posix()] = facts.st_size
        return found

    def _left(self) -> Iterator[Path]:
        """What killed writers left."""
        for place, _, names in os.walk(self.root):
            yield from (Path(place, name) for name in names if name.endswith(PART))

    def read(self, path: str, limit: int) -> bytes:
        with open_regular(self.root / path) as file:
            return _limited(file, path, limit)

    def write(self, path: str, data: bytes) -> None:
        self._require_same_disk()
        part = self.root / f".{path}{PART}"
        part.write_bytes(data)
        os.replace(part, self.root / path)

    def put(self, items: Sequence[Item], on_bytes: OnBytes) -> None:
        self._require_same_disk()
        for item in items:
            final = self.root / item.path
            if final.is_file() and final.stat().st_size == item.size and _read_back(final) == item.sha256:
                on_bytes(item.size)
                continue
            final.parent.mkdir(parents=True, exist_ok=True)
            part = final.with_name(f".{final.name}{PART}")
            try:
                _copy(item.source, part, on_bytes)
                if _read_back(part) != item.sha256:
                    require_own(item)
                    raise OSError(f"{part} was read back with another hash than it was written with")
                os.replace(part, final)
            except (OSError, DamagedHere):  # on a full disk, what is smaller may have room
                with contextlib.suppress(OSError):
                    part.unlink()
                raise
            sync_folder(final.parent)

    def fetch(self, path: str, size: int, part: Path, on_bytes: OnBytes) -> None:
        with open_regular(self.root / path) as file:
            _append(file, part, on_bytes)

    def move(self, old: str, new: str) -> None:
        if (self.root / old).exists():
            os.rename(self.root / old, self.root / new)
            sync_folder((self.root / new).parent)

    def remove(self, folder: str, first: str) -> None:
        (self.root / folder / first).unlink(missing_ok=True)
        sync_folder(self.root / folder)
        shutil.rmtree(self.root / folder)


class Store:
    """A file system of fsspec: an object store, a server, or memory."""

    small_every, beats = 60.0, True

    def __init__(self, url: str, fs: Any, root: str) -> None:
        self.url, self.fs, self.root = url, fs, root.rstrip("/")

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"

    def check(self) -> None:
        try:
            with contextlib.suppress(FileExistsError, NotImplementedError):
                self.fs.makedirs(self.root, exist_ok=True)
            probe = f"nanochat-probe-{os.getpid()}"
            self.write(probe, b"nanochat")
            back = self.read(probe, 100)
            self.fs.rm_file(self._at(probe))
        except Exception as error:
            remedy = "Check the address, your credentials, and that you may write there"
            raise UserError(f"cannot write to {self.url}: {said(error)}", remedy) from None
        if back != b"nanochat":
            raise UserError(f"{self.url} does not give back what was written there", "Give --backup another place")

    def files(self) -> dict[str, int]:
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            return {}
        start = self.fs._strip_protocol(self.root).rstrip("/") + "/"
        below = ((str(path), facts) for path, facts in found.items())
        return {
            path.removeprefix(start): int(facts.get("size") or 0)
            for path, facts in below
            if path.startswith(start) and facts.get("type", "file") == "file"
        }

    def read(self, path: str, limit: int) -> bytes:
        self.fs.invalidate_cache(self.fs._parent(self._at(path)))
        with self.fs.open(self._at(path), "rb") as file:
            return _limited(file, path, limit)

    def write(self, path: str, data: bytes) -> None:
        self.fs.pipe_file(self._at(path), data)

    def put(self, items: Sequence[Item], on_bytes: OnBytes) -> None:
        for item in items:
            place, spare = self._at(item.path), self._at(spare_of(item.path))
            if self._there(place) == item.size and self._read_back(place) == item.sha256:
                if self._there(spare) is not None:  # after a kill
                    self.fs.rm_file(spare)
                on_bytes(item.size)
                continue
            with contextlib.suppress(FileExistsError, NotImplementedError):
                self.fs.makedirs(self.fs._parent(place), exist_ok=True)
            replaces = not self._whole_at_once and self._there(place) is not None
            if replaces:
                self._send(item, spare, lambda n: None)
            self._send(item, place, on_bytes)
            if replaces:
                self.fs.rm_file(spare)

    def _send(self, item: Item, place: str, on_bytes: OnBytes) -> None:
        self.fs.put_file(str(item.source), place, callback=_calling(on_bytes))
        if self._there(place) != item.size or self._read_back(place) != item.sha256:
            require_own(item)
            raise OSError(f"{item.path} was read back with another hash than it was written with")

    @property
    def _whole_at_once(self) -> bool:
        """Whether a file appears there whole or not at all, also when it replaces another."""
        names = self.fs.protocol if isinstance(self.fs.protocol, tuple | list) else (self.fs.protocol,)
        return bool(OBJECT_STORES & set(names))

    def _there(self, place: str) -> int | None:
        self.fs.invalidate_cache(self.fs._parent(place))
        try:
            return int(self.fs.info(place)["size"])
        except FileNotFoundError:
            return None

    def _read_back(self, place: str) -> str:
        with self.fs.open(place, "rb", block_size=CHUNK) as file:
            return hash_of(file)

    def fetch(self, path: str, size: int, part: Path, on_bytes: OnBytes) -> None:
        with self.fs.open(self._at(path), "rb", block_size=CHUNK) as file:
            _append(file, part, on_bytes)

    def move(self, old: str, new: str) -> None:
        start = f"{old}/"
        names = [path for path in self.files() if path.startswith(start)]
        # Manifests are copied last and deleted first: no half of a step passes for one.
        names.sort(key=lambda name: name.endswith("/manifest.json"))
        for name in names:
            place = self._at(f"{new}/{name.removeprefix(start)}")
            with contextlib.suppress(FileExistsError, NotImplementedError):
                self.fs.makedirs(self.fs._parent(place), exist_ok=True)
            if self._there(place) != self._there(self._at(name)):
                self.fs.cp_file(self._at(name), place)
        for name in reversed(names):
            self.fs.rm_file(self._at(name))
        self._forget(old)

    def remove(self, folder: str, first: str) -> None:
        names = [path for path in self.files() if path.startswith(f"{folder}/")]
        names.sort(key=lambda name: name != f"{folder}/{first}")
        for name in names:
            self.fs.rm_file(self._at(name))
        self._forget(folder)

    def _forget(self, folder: str) -> None:
        """Remove empty folders, where there is such a thing."""
        with contextlib.suppress(Exception):
            self.fs.rm(self._at(folder), recursive=True)


def _calling(on_bytes: OnBytes) -> Any:
    from fsspec.callbacks import Callback

    class Told(Callback):
        def relative_update(self, inc: int = 1) -> None:
            on_bytes(inc)

    return Told()


def _limited(file: BinaryIO, path: str, limit: int) -> bytes:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} has more than {limit:,} bytes")
    return data


def _copy(source: Path, part: Path, on_bytes: OnBytes) -> None:
    with open(source, "rb", buffering=0) as file, open(part, "wb", buffering=0) as out:
        try:
            while n := os.sendfile(out.fileno(), file.fileno(), None, CHUNK):  # type: ignore[arg-type]
                on_bytes(n)
        except (AttributeError, TypeError, OSError):  # not on this system, or not between these file systems
            file.seek(0)
            out.seek(0)
            out.truncate()
            while piece := file.read(CHUNK):
                out.write(piece)
        os.fsync(out.fileno())


def _read_back(path: Path) -> str:
    """The hash of what the disk holds: what the system remembers of the file is dropped first, where it can be."""
    with open(path, "rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return hash_of(file)  # type: ignore[arg-type]


def _append(file: BinaryIO, part: Path, on_bytes: OnBytes) -> None:
    with open(part, "ab") as out:
        file.seek(out.tell())
        while piece := file.read(CHUNK):
            out.write(piece)
            out.flush()
            on_bytes(len(piece))
        os.fsync(out.fileno())
