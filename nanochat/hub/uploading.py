"""Large files to the Hub's storage, in parts: what a part has brought is not sent again."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nanochat.console import Progress
from nanochat.corpus.transfer import Kind
from nanochat.hub.asking import client, patiently
from nanochat.reading import open_regular

PART = 1 << 28  # bytes of files that are sent before those that have arrived are counted as such
PART_FILES = 100


def upload(repo: str, kind: Kind, branch: str, token: str | None, adds: Sequence[Any], bar: Progress) -> None:
    """Send the large files among the client's operations (those that git does not keep by itself) to the Hub's storage.

    A next try does not send again what has arrived. bar: in MB; each byte counts once.
    """
    counting = threading.Lock()
    began, got = time.monotonic(), 0

    def advance(count: int) -> None:
        nonlocal got
        with counting:
            got += count
            bar.advance(count / 1e6, speed=f"{got / 1e6 / max(time.monotonic() - began, 1e-3):.1f} MB/s")

    by_chunks = _has_xet(repo, kind, branch, token)
    for part in _parts(adds):
        sent = [_Counted(add.path_or_fileobj, add.upload_info.size, advance) for add in part]

        def attempt(part: Sequence[Any] = part, sent: Sequence[_Counted] = sent) -> None:
            contents = [add.path_or_fileobj for add in part]
            try:
                if not by_chunks:
                    for add, counted in zip(part, sent, strict=True):
                        add.path_or_fileobj = counted
                # No .gitignore of the repository keeps a file back.
                client(token).preupload_lfs_files(
                    repo, part, repo_type=kind, revision=branch or None, free_memory=False,
                    gitignore_content="",
                )  # fmt: skip
            finally:
                for add, content in zip(part, contents, strict=True):
                    add.path_or_fileobj = content

        patiently(repo, token, attempt)
        for counted in sent:
            counted.finish()


def _parts(adds: Sequence[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    for add in adds:
        if part and (len(part) == PART_FILES or sum(a.upload_info.size for a in [*part, add]) > PART):
            yield part
            part = []
        part.append(add)
    if part:
        yield part


def _has_xet(repo: str, kind: Kind, branch: str, token: str | None) -> bool:
    """Whether the Hub takes files in chunks (xet), of which it keeps each only once. Else they go as LFS takes them:
    the client does not find that out by itself."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, but loaded lazily

    if constants.HF_HUB_DISABLE_XET or not find_spec("hf_xet"):
        return False
    at = (branch or "main").replace("/", "%2F")
    url = f"{constants.ENDPOINT}/api/{kind}s/{repo}/xet-write-token/{at}"
    headers = build_hf_headers(token=token or False, library_name="nanochat")

    def ask() -> bool:
        found = get_session().get(url, headers=headers)
        return bool(found.status_code == 200)

    return patiently(repo, token, ask)


class _Counted(io.BufferedIOBase):
    """A file that is read to be sent. Each byte counts once, however often it is sent again."""

    def __init__(self, content: str | bytes, size: int, advance: Callable[[int], None]) -> None:
        self._content, self._size, self._advance = content, size, advance
        self._file: Any = None
        self._most = 0

    def _open(self) -> Any:
        if self._file is None:
            given = self._content
            self._file = io.BytesIO(given) if isinstance(given, bytes) else open_regular(Path(given))
        return self._file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._open().tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._open().seek(offset, whence))

    def read(self, size: int | None = -1) -> bytes:
        data: bytes = self._open().read(-1 if size is None else size)
        if (at := self._file.tell()) > self._most:
            self._advance(at - self._most)
            self._most = at
        return data

    def finish(self) -> None:
        """Count what need not be sent: the Hub had it, or it travels in the commit."""
        self._advance(max(0, self._size - self._most))
        self._most = self._size
        if self._file is not None:
            self._file.close()
            self._file = None
