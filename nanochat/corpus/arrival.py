"""Download the shards of a Hub corpus; meta.json lists all planned ones, so training can start before they arrive."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from nanochat.console import Progress, UserError, say
from nanochat.corpus import hub
from nanochat.corpus.info import META, CorpusInfo, ShardInfo, find_info
from nanochat.corpus.shards import scan
from nanochat.corpus.transfer import RemoteFile
from nanochat.paths import data_dir, write_json


def download_shards(name: str, repo: str, wanted: Sequence[str], skip_bad: bool = False) -> CorpusInfo:
    """Make corpus `name` of the shards `wanted` of `repo`, in order of number, the validation shard last.

    Shards that the corpus already has stay in it. Finished ones are not read or requested again; new ones come from the
    same commit. A file that meta.json does not list is compared with the Hub's, if the Hub can be reached.
    The download lock is held meanwhile. meta.json lists shards still to come as ShardInfo.pending, even after this was
    stopped, until a call wants others: so a resumed training run finds the shards that it started on.
    skip_bad: leave out training shards that are complete but unreadable, for good and with a message.
    """
    folder = data_dir(name)
    before = find_info(name)
    if (
        before
        and _has_all(before, folder, wanted)
        and (hub.downloading(folder) or not (before.pending or _left_by_killed(folder)))
    ):
        return _told(before)
    commit = before.settings.get("commit", "") if before and before.folder == folder else ""
    # ask first, so that nothing is left behind if there is no network
    remote = {} if all((folder / file).exists() for file in wanted) else hub.remote_files(repo, commit)
    with hub.download_lock(folder):
        for left in _left_by_killed(folder):  # we hold the lock
            left.unlink(missing_ok=True)
        before = find_info(name)  # again: another process may have changed it while we waited
        own = before if before and before.folder == folder else None
        commit = own.settings.get("commit", "") if own else ""
        if commit and remote and next(iter(remote.values())).commit != commit:
            remote = hub.remote_files(repo, commit)  # another process made the first download, of an older commit
        known = {s.file: s for s in own.shards if not s.pending} if own else {}
        skipped = own.skipped if own else ()
        planned = sorted({*wanted, *known} - {s.file for s in skipped})
        missing = [file for file in planned if not _is_whole(folder / file, known.get(file))]
        strange = [file for file in planned if file not in missing and file not in known]
        corpus = _Arriving(name, repo, planned, skipped, skip_bad)
        corpus.shards = {file: shard for file, shard in known.items() if file not in missing}
        bad = corpus.check(strange)
        if (missing or strange) and not remote:
            try:
                remote = hub.remote_files(repo, commit)
            except hub.Unreachable:
                for file, error in bad.items():
                    raise UserError(error.problem, f"Delete {folder / file} and run the command again") from None
                if missing:
                    raise
        gone = [file for file in missing if file not in remote]
        if gone:
            raise UserError(f"the Hub repository {repo} has no {gone[0]}", "Ask for fewer shards: --num-files")
        corpus.commit = next(iter(remote.values())).commit if remote else commit
        for rotten in hub.missing([remote[file] for file in strange if file in remote], folder):
            missing.append(rotten.name)
            bad.pop(rotten.name, None)
            (folder / rotten.name).unlink()
        for file, error in bad.items():
            corpus.leave_out(file, error)
        corpus.expect(remote[file] for file in missing)
        missing.sort(key=lambda file: (file != planned[-1], file))  # validation first: evaluation needs it
        try:
            hub.download([remote[file] for file in missing], folder, corpus.arrived)
        finally:
            corpus.close()
        return _told(corpus.info())


class _Arriving:
    """A corpus whose shards arrive in several threads; meta.json is rewritten after each shard."""

    def __init__(
        self, name: str, repo: str, planned: Sequence[str], skipped: Sequence[ShardInfo], skip_bad: bool
    ) -> None:
        self.name, self.repo, self.planned, self.skip_bad = name, repo, planned, skip_bad
        self.folder = data_dir(name)
        self.shards: dict[str, ShardInfo] = {}
        self.skipped = list(skipped)
        self.commit = ""
        self._lock = threading.Lock()

    def check(self, files: Sequence[str]) -> dict[str, UserError]:
        """Read all of `files`, which are on disk but not in meta.json; return the errors of the bad ones."""
        bad: dict[str, UserError] = {}
        with Progress(len(files), f"check {self.name}", "shards") as bar:
            for file in files:
                try:
                    self._scan(file)
                except UserError as error:
                    bad[file] = error
                bar.advance(1)
        return bad

    def expect(self, files: Iterable[RemoteFile]) -> None:
        for file in files:
            path = self.folder / file.name
            if path.exists():  # its size has changed since the download
                say(f"{path} has {path.stat().st_size:,} bytes, not as before: downloading it again")
                path.unlink()
            self.shards[file.name] = ShardInfo(file.name, 0, 0, file.size)
        self._write()

    def arrived(self, file: str) -> None:
        try:
            self._scan(file)
        except UserError as error:
            self.leave_out(file, error)
        with self._lock:
            self._write()

    def close(self) -> None:
        """Keep the plan in meta.json if a training shard and the validation shard are there; else delete it."""
        there = {file for file, shard in self.shards.items() if not shard.pending}
        if len(there) > 1 and self.planned[-1] in there:
            self._write()
        else:
            with suppress(OSError):  # of a disk that failed, which is what ends the download
                (self.folder / META).unlink(missing_ok=True)

    def info(self) -> CorpusInfo:
        if not self._is_usable():
            raise UserError(f"{self.name} has no shard for training that can be read", "Ask for more shards (-n)")
        shards = tuple(self.shards[file] for file in self.planned if file in self.shards)
        skipped = tuple(sorted(self.skipped, key=lambda shard: shard.file))
        settings = {"commit": self.commit} if self.commit else {}
        return CorpusInfo(self.name, self.repo, self.folder, shards, settings, skipped)

    def _is_usable(self) -> bool:
        return len(self.shards) > 1 and self.planned[-1] in self.shards

    def leave_out(self, file: str, error: UserError) -> None:
        """Skip a shard that is bad on the Hub too, if skip_bad is set and it is not the validation shard."""
        if file == self.planned[-1]:
            raise error  # there is no other validation shard
        if not self.skip_bad:
            raise UserError(error.problem, "The Hub's copy is bad too: leave out such shards with --skip-bad") from None
        say(f"{self.name}: left out {file}: {error.problem}")
        with self._lock:
            self.skipped.append(ShardInfo(file, 0, 0, (self.folder / file).stat().st_size))
            self.shards.pop(file, None)

    def _scan(self, file: str) -> None:
        shard = scan(self.folder / file)
        with self._lock:
            self.shards[file] = shard

    def _write(self) -> None:
        if self._is_usable():
            write_json(self.folder / META, self.info().to_json())


def _told(info: CorpusInfo) -> CorpusInfo:
    if info.skipped:
        total = len(info.shards) + len(info.skipped)
        say(f"{info.name}: left out {len(info.skipped)} of {total} shards (--skip-bad)")
    return info


def _has_all(info: CorpusInfo, folder: Path, wanted: Sequence[str]) -> bool:
    there = {s.file for s in info.shards if not s.pending and _is_whole(folder / s.file, s)}
    needed = {*wanted, *(s.file for s in info.shards if not s.pending)} - {s.file for s in info.skipped}
    return info.folder == folder and needed <= there


def _left_by_killed(folder: Path) -> list[Path]:
    """Half-written meta.json files, or those that another process is writing now if it holds the lock."""
    return list(folder.glob(f".{META}.*.part"))


def _is_whole(path: Path, shard: ShardInfo | None) -> bool:
    """Whether the file is complete: it gets its name only then, but may have changed since."""
    return path.is_file() and (shard is None or path.stat().st_size == shard.size)
