"""A backup in a Hub repository: every change is one commit, so that each version of it is whole, and older ones stay in
its history."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from nanochat.console import UserError
from nanochat.corpus import transfer
from nanochat.corpus.transfer import Kind
from nanochat.hub.asking import client, find_token, patiently
from nanochat.hub.repository import Listing, Outgoing, Repository, look, path_in_repo, prepare, send
from nanochat.hub.targets import Item, OnBytes, require_own
from nanochat.reading import shown

URL = re.compile(r"hf://(?:(models|datasets|spaces)/)?([^/@]+/[^/@]+)(?:@([^/]+))?((?:/.*)?)")
KINDS: dict[str | None, Kind] = {None: "model", "models": "model", "datasets": "dataset"}
TIMEOUT = 60.0  # seconds without a byte


class HubTarget:
    """url: hf://owner/name, hf://owner/name@branch/folder, hf://datasets/owner/name."""

    small_every, beats = 600.0, False  # the Hub allows about a hundred commits an hour

    def __init__(self, url: str, token: str = "") -> None:
        found = URL.fullmatch(url)
        if not found or found[1] not in KINDS:
            raise UserError(
                f"{shown(url)} names no repository", "Write it as hf://owner/name or hf://owner/name/folder"
            )
        self.url = url
        self.folder = path_in_repo(found[4])
        self.token = find_token(token)
        self.where = Repository(found[2], KINDS[found[1]], found[3] or "", self.token)
        if self.token:  # what is fetched below asks there
            os.environ.setdefault("HF_TOKEN", self.token)
        self._listing: Listing | None = None
        self._answered = False  # then silence is a fault that passes, else there is most likely no network

    def _at(self, path: str) -> str:
        return f"{self.folder}/{path}" if self.folder else path

    def check(self) -> None:
        if not self.token:
            remedy = "Set HF_TOKEN to one that may write, or run `hf auth login`"
            raise UserError(f"a backup to {self.url} needs a token", remedy)
        prepare(self.where, None)  # what follows it, the backup's own first commit, shows whether one may write
        self._answered = True

    def _look(self) -> Listing:
        self._listing = look(self.where, first=not self._answered) or Listing("", True, {})
        self._answered = True
        return self._listing

    def files(self) -> dict[str, int]:
        return {path: file.size for path, file in self._look().below(self.folder).items()}

    def read(self, path: str, limit: int) -> bytes:
        file = self._look().files.get(self._at(path))
        if file is None:
            raise FileNotFoundError(path)
        if file.size > limit:
            raise ValueError(f"{path} has more than {limit:,} bytes")
        with tempfile.TemporaryDirectory() as place:
            transfer.fetch(file, Path(place), lambda n: None, threading.Event(), TIMEOUT)
            return (Path(place) / file.name).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        send(self.where, {self._at(path): Outgoing(data)}, f"nanochat backup: {path}")

    def put(self, items: Sequence[Item], on_bytes: OnBytes) -> None:
        files = {self._at(item.path): Outgoing(item.source, item.sha256) for item in items}
        folders = sorted(
            {item.path.rpartition("/")[0].removesuffix("/tokenizer") for item in items if "/" in item.path}
        )
        try:
            send(self.where, files, f"nanochat backup: {', '.join(folders[:3]) or items[0].path}")
        except Exception:
            for item in items:  # is it the far side that is to blame?
                require_own(item)
            raise
        on_bytes(sum(item.size for item in items))

    def fetch(self, path: str, size: int, part: Path, on_bytes: OnBytes) -> None:
        file = (self._listing or self._look()).files.get(self._at(path))
        if file is None:
            raise FileNotFoundError(path)
        place = part.parent / f"{part.name}.hub"
        transfer.fetch(file, place, on_bytes, threading.Event(), TIMEOUT)
        os.replace(place / file.name, part)

    def move(self, old: str, new: str) -> None:
        from huggingface_hub import CommitOperationCopy, CommitOperationDelete

        there, start = self._look(), f"{self._at(old)}/"
        names = [name for name in there.files if name.startswith(start)]
        if not names:
            return
        copies = [CommitOperationCopy(name, f"{self._at(new)}/{name.removeprefix(start)}") for name in names]
        deletions = [CommitOperationDelete(name, is_folder=False) for name in names]

        def commit() -> None:
            client(self.token).create_commit(
                self.where.name,
                [*copies, *deletions],
                commit_message=f"nanochat backup: {old} is now {new}",
                repo_type=self.where.kind,
                revision=self.where.branch or None,
                parent_commit=there.commit or None,
            )

        patiently(self.where.name, self.token, commit)
        moved, size = self._look(), len(start)
        if any(moved.files.get(f"{self._at(new)}/{n[size:]}") is None for n in names):
            raise OSError(f"{self.url} does not show what was moved to {new}")

    def remove(self, folder: str, first: str) -> None:
        start = f"{self._at(folder)}/"
        send(self.where, {}, f"nanochat backup: {folder} is no longer kept", lambda name: name.startswith(start))
