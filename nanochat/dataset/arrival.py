"""Shards of a Hub corpus as they arrive: meta.json names all that are planned, so that training may begin before."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from nanochat.console import Progress, UserError, say
from nanochat.dataset import hub
from nanochat.dataset.importing import or_skip
from nanochat.dataset.info import META, CorpusInfo, ShardInfo, find_info
from nanochat.dataset.shards import scan
from nanochat.dataset.transfer import RemoteFile
from nanochat.paths import data_dir, write_json


def download_shards(name: str, repo: str, wanted: Sequence[str], skip_bad: bool = False) -> CorpusInfo:
    """Corpus `name` of the shards `wanted` of `repo`, by number and the one for validation last.

    Shards that the corpus had before stay in it, and a finished one is not read or asked for again. While this works
    it holds the download lock, and meta.json has the shards still to come as ShardInfo.pending.
    skip_bad: leave out, and say so, training shards that are whole but cannot be read.
    """
    folder = data_dir(name)
    before = find_info(name)
    if before and _has_all(before, folder, wanted) and not (before.pending and not hub.downloading(folder)):
        return before
    # asked before anything is made, so that nothing is left where there is no network
    remote = {} if all((folder / file).exists() for file in wanted) else hub.remote_files(repo)
    with hub.download_lock(folder):
        before = find_info(name)  # again: another process may have been at work while this one waited
        known = {s.file: s for s in before.shards if not s.pending} if before and before.folder == folder else {}
        planned = sorted({*wanted, *known})
        missing = [file for file in planned if not _is_whole(folder / file, known.get(file))]
        if missing and not remote:
            remote = hub.remote_files(repo)
        gone = [file for file in missing if file not in remote]
        if gone:
            raise UserError(f"the Hub repository {repo} has no {gone[0]}", "Ask for fewer shards (-n)")
        corpus = _Arriving(name, repo, planned, skip_bad)
        corpus.check(known, [file for file in planned if file not in missing])
        corpus.expect(remote[file] for file in missing)
        missing.sort(key=lambda file: (file != planned[-1], file))  # nothing can be evaluated without validation
        try:
            hub.download([remote[file] for file in missing], folder, corpus.arrived)
        finally:
            corpus.close()
        return corpus.info()


class _Arriving:
    """The corpus while its shards come in, in several threads; meta.json follows every one."""

    def __init__(self, name: str, repo: str, planned: Sequence[str], skip_bad: bool) -> None:
        self.name, self.repo, self.planned, self.skip_bad = name, repo, planned, skip_bad
        self.folder = data_dir(name)
        self.shards: dict[str, ShardInfo] = {}
        self.skipped = 0
        self._lock = threading.Lock()

    def check(self, known: dict[str, ShardInfo], files: Sequence[str]) -> None:
        """Take in `files`, which are on the disk; those that meta.json did not know are read through."""
        new = [file for file in files if file not in known]
        self.shards = {file: known[file] for file in files if file in known}
        with Progress(len(new), f"check {self.name}", "shards") as bar:
            for file in new:
                self._scan(file)
                bar.advance(1)

    def expect(self, files: Iterable[RemoteFile]) -> None:
        for file in files:
            path = self.folder / file.name
            if path.exists():  # of another size than it had, so not as it was downloaded
                say(f"{path} has {path.stat().st_size:,} bytes, not as before: downloading it again")
                path.unlink()
            self.shards[file.name] = ShardInfo(file.name, 0, 0, file.size)
        self._write()

    def arrived(self, file: str) -> None:
        self._scan(file)
        with self._lock:
            self._write()

    def close(self) -> None:
        """Forget what has not arrived; without a shard for training and the one for validation there is no corpus."""
        self.shards = {file: shard for file, shard in self.shards.items() if not shard.pending}
        if self._is_usable():
            self._write()
        else:
            (self.folder / META).unlink(missing_ok=True)
        if self.skipped:
            say(f"{self.name}: left out {self.skipped} of {len(self.planned)} shards (--skip-bad)")

    def info(self) -> CorpusInfo:
        if not self._is_usable():
            raise UserError(f"{self.name} has no shard for training that can be read", "Ask for more shards (-n)")
        return CorpusInfo(
            self.name, self.repo, self.folder, tuple(self.shards[file] for file in self.planned if file in self.shards)
        )

    def _is_usable(self) -> bool:
        return len(self.shards) > 1 and self.planned[-1] in self.shards

    def _scan(self, file: str) -> None:
        try:
            shard = scan(self.folder / file)
        except UserError as error:
            if file == self.planned[-1]:
                raise  # there is no other one to measure with
            if not self.skip_bad:
                raise or_skip(error) from None
            say(f"{self.name}: left out {file}: {error.problem}")
            with self._lock:
                self.skipped += 1
                self.shards.pop(file, None)
            return
        with self._lock:
            self.shards[file] = shard

    def _write(self) -> None:
        if self._is_usable():
            write_json(self.folder / META, self.info().to_json())


def _has_all(info: CorpusInfo, folder: Path, wanted: Sequence[str]) -> bool:
    there = {s.file for s in info.shards if not s.pending and _is_whole(folder / s.file, s)}
    return info.folder == folder and {*wanted, *(s.file for s in info.shards if not s.pending)} <= there


def _is_whole(path: Path, shard: ShardInfo | None) -> bool:
    """A file appears under its name only when it is whole; but it may have been changed since."""
    return path.is_file() and (shard is None or path.stat().st_size == shard.size)
