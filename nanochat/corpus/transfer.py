"""Download one Hub file over HTTP: resume, survive faults, and give the file its name once its hash is verified.

The client's `hf_hub_download` discards a partial file when it is interrupted, so the requests are made here, with the
client's session, URLs, token and errors. They are plain HTTP: xet cannot resume within a file.
"""

from __future__ import annotations

import glob
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

from nanochat.console import UserError, say
from nanochat.corpus import retrying
from nanochat.paths import sync_folder

Kind = Literal["dataset", "model", "space"]
DIGITS = "[0-9a-f]" * 12  # of a hash, in the name of a partial file
DAMAGED_TRIES = 3  # a file that arrives with a wrong hash this often is wrong on the server
WORTH_SAYING = 3.0  # seconds; shorter pauses are not reported


@dataclass(frozen=True)
class RemoteFile:
    """A file of a Hub repository at one commit.

    digest: SHA-256 of a file in LFS, else the id of its git blob (SHA-1 over a header and the content).
    """

    repo: str
    name: str
    commit: str
    size: int
    digest: str
    kind: Kind = "dataset"

    def partial(self, folder: Path) -> Path:
        """The path of the partial file; other content under the same name gets another path."""
        path = folder / self.name
        return path.with_name(f".{path.name}.{self.digest[:12]}.part")

    def is_at(self, path: Path) -> bool:
        """Whether `path` has this file's content; reads all of it."""
        try:
            with open(path, "rb") as content:
                return not self.difference(content)
        except OSError:
            return False

    def difference(self, content: BufferedReader) -> str:
        """How an open file differs from this one; "" if it does not."""
        size = os.fstat(content.fileno()).st_size
        if size != self.size:
            return f"{size} bytes instead of {self.size}"
        if len(self.digest) == 64:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        else:
            header = b"blob %d\0" % self.size
            digest = hashlib.file_digest(content, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()
        return "" if digest == self.digest else f"hash {digest[:12]}… instead of {self.digest[:12]}…"


class Stopped(Exception):
    """The download was cancelled; the partial file is kept."""


class _Damaged(Exception):
    """What arrived is not the file."""


def fetch(
    file: RemoteFile,
    folder: Path,
    advance: Callable[[int], None],
    stop: threading.Event,
    timeout: float,
    token: str | None = None,
) -> None:
    """Get `file` into `folder`.

    advance: called with every change in the number of bytes received (negative if some are discarded).
    timeout: seconds without a byte after which the connection counts as broken. token: None for that of the login.
    Raises the HTTP client's error if it fails for good, UserError for wrong content or a disk error, or Stopped.
    """
    part = file.partial(folder)
    failures = damaged = 0
    most = _size(part)
    while True:
        try:
            _receive(file, part, advance, stop, timeout, token)
            _verify(file, part)
            break
        except (UserError, Stopped):
            raise
        except _Damaged as error:
            advance(-_size(part))
            with _disk(part):
                part.unlink(missing_ok=True)
            damaged, most = damaged + 1, 0
            if damaged == DAMAGED_TRIES:
                problem = f"{file.name} of {file.repo} arrived damaged {damaged} times ({error})"
                raise UserError(problem, "Try later, or without the proxy or HF_ENDPOINT mirror in between") from None
            seconds, reason = retrying.pause(error, damaged), str(error)
        except Exception as error:
            if _size(part) > most:
                failures, most = 0, _size(part)
            failures += 1
            if failures > retrying.RETRIES or not retrying.is_transient(error):
                raise
            seconds, reason = retrying.pause(error, failures), first_line(error)
        if seconds >= WORTH_SAYING:
            say(f"{file.name}: {reason}; trying again in {seconds:.0f} s")
        if stop.wait(seconds):
            raise Stopped
    with _disk(part):
        os.replace(part, folder / file.name)
        sync_folder(part.parent)
        for old in part.parent.glob(f".{glob.escape(Path(file.name).name)}.{DIGITS}.part"):  # of older content
            old.unlink()


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:150] or type(error).__name__


def _receive(
    file: RemoteFile,
    part: Path,
    advance: Callable[[int], None],
    stop: threading.Event,
    timeout: float,
    token: str | None,
) -> None:
    """One request for the bytes that are still missing."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but loaded lazily

    there = _size(part)
    if there > file.size:
        raise _Damaged(f"{there} bytes instead of {file.size}")
    if there == file.size:
        with _disk(part):  # an empty file has no bytes to ask for
            part.parent.mkdir(parents=True, exist_ok=True)
            part.touch()
        return
    url = hf_hub_url(file.repo, file.name, repo_type=file.kind, revision=file.commit)
    headers = {**build_hf_headers(token=token, library_name="nanochat"), "Accept-Encoding": "identity"}
    if there:
        headers["Range"] = f"bytes={there}-"
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        if response.status_code == 416:  # no bytes after ours: the server has another file
            raise _Damaged(f"the server has less than {file.size} bytes")
        hf_raise_for_status(response)
        if there and response.status_code != 206:  # the server sends all of it again
            advance(-there)
            there = 0
        with _disk(part):
            part.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "ab" if there else "wb") as out:
                for chunk in response.iter_bytes():
                    if stop.is_set():
                        raise Stopped
                    there += len(chunk)
                    if there > file.size:
                        raise _Damaged(f"the server sends more than {file.size} bytes")
                    out.write(chunk)
                    out.flush()  # what has arrived survives a kill
                    advance(len(chunk))
    if _size(part) < file.size:
        raise ConnectionError(f"the connection ended after {_size(part)} of {file.size} bytes")


def _verify(file: RemoteFile, part: Path) -> None:
    """Sync `part` to the disk; _Damaged if its content is not that of `file`."""
    with _disk(part), open(part, "rb") as content:
        os.fsync(content.fileno())
        difference = file.difference(content)
    if difference:
        raise _Damaged(difference)


@contextmanager
def _disk(part: Path) -> Iterator[None]:
    """Report any OSError in here as a disk failure: for the network, the client raises other errors."""
    try:
        yield
    except OSError as error:
        problem = f"the disk failed while {part} was written: {error.strerror or error}"
        remedy = "Free some disk space or choose another folder, then run this again"
        raise UserError(problem, remedy) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
