"""Import the user's files as a corpus: read, shuffle and write them as shards, and sum up what was left out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from nanochat import lock
from nanochat.console import Progress, UserError, say
from nanochat.corpus import textfiles
from nanochat.corpus.info import CorpusInfo, find_info
from nanochat.corpus.shuffle import disk_needed, shuffled
from nanochat.corpus.tally import NO_TEXT, BadText, Tally
from nanochat.corpus.writing import VAL_EVERY, write_corpus
from nanochat.paths import base_dir, data_dir, require_disk, whole

SUMMARY = "import.json"  # stands beside the shards: what was kept and what was left out
LOCK = ".import.lock"  # in the folder of all corpora
SHORTEST_CUT = 2_000  # characters


@dataclass(frozen=True)
class How:
    """Import options. seed: of the shuffle. dedup: leave out documents that repeat an earlier one.

    column: parquet or jsonl column of the text (None: text, else messages). skip_bad: leave out what cannot be read.
    """

    seed: int = 1337
    dedup: bool = False
    column: str | None = None
    skip_bad: bool = False

    @property
    def in_place(self) -> bool:
        """Whether existing shards can be used without a copy."""
        return self == How(skip_bad=self.skip_bad)


def settings_of(files: list[Path], how: How) -> dict[str, Any]:
    """What a corpus depends on: `how`, and facts that change when a file is added, removed or edited."""
    root = os.path.commonpath([file.parent for file in files])
    facts = [(file.relative_to(root).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {"files": hashlib.sha256(repr(facts).encode()).hexdigest()[:16], **asdict(how)}


def is_made(info: CorpusInfo | None, settings: dict[str, Any]) -> bool:
    """Whether the corpus exists with all its files and was made with these settings. An option that it does not record
    is newer than the corpus, so its default applies."""
    if info is None or not all((info.folder / shard.file).exists() for shard in info.shards):
        return False
    options = {name: default for name, default in asdict(How()).items() if name in settings}
    return {**options, **info.settings} == settings


def import_files(name: str, source: str, files: list[Path], how: How) -> CorpusInfo:
    """Write the documents of `files` as the shards of corpus `name`; memory use does not grow with them.

    Does nothing if that is already done, and waits while another process imports.
    """
    folder = data_dir(name)
    size = sum(textfiles.text_size(file) for file in files)
    settings = settings_of(files, how)
    with one_at_a_time():
        before = find_info(name)
        require_source(before, source)  # another process may have made it while we waited
        if before and is_made(before, settings):
            tell(before)
            return before
        limit = document_limit(size)
        tally = Tally(how.skip_bad)
        found = (text for file in files for text in textfiles.documents(file, limit, how.column, tally))
        on_duplicate = partial(tally.drop, "duplicate") if how.dedup else None
        try:
            with _empty_folder(folder.with_name(f".{folder.name}.piles")) as scratch:
                require_disk(folder, disk_needed(size), f"the dataset {name}")
                with Progress(size / 1e6, f"read {name}", "MB") as bar:
                    texts = shuffled(_watched(found, bar), how.seed, size, scratch, on_duplicate)
                    first = list(islice(texts, 1))  # this reads all of them
                texts = _counted(chain(first, texts), tally)
                info = write_corpus(name, source, texts, settings, round(bar.done * 1e6), {SUMMARY: tally.to_json})
        except BadText as error:
            raise or_skip(error, len(files)) from None
        except OSError as error:
            problem = f"cannot write beside {folder}: {error.strerror or error}"
            raise UserError(problem, "Free some disk space or set NANOCHAT_BASE_DIR to another disk") from None
        except UserError:
            if tally.dropped:  # which may be why too little is left
                say(f"{name}: {tally.summary()}")
            raise
    say(f"{name}: {tally.summary()}")
    return info


class NameTakenError(UserError):
    """A corpus from another source has the name already."""


def require_source(before: CorpusInfo | None, source: str) -> None:
    """NameTakenError if the existing corpus comes from another source than `source`."""
    if before and before.source != source:
        problem = f"the name {before.name!r} already stands for {before.source}"
        raise NameTakenError(problem, f"Give {source} another one: --name NAME")


def document_limit(size: int) -> int:
    """Most characters of a document, for text of `size` bytes: none should exceed the validation shard."""
    return min(max(size // VAL_EVERY, SHORTEST_CUT), textfiles.LIMIT)


def or_skip(error: UserError, files: int = 2) -> UserError:
    """The same error with --skip-bad as one more remedy, unless that would leave none of the `files`."""
    if files == 1 and isinstance(error, BadText) and error.reason == NO_TEXT:
        return error
    return UserError(error.problem, *(error.remedies or ("Mend it",)), "Leave out what is bad with --skip-bad")


def tell(info: CorpusInfo) -> None:
    """Say what an import kept and left out; nothing about a corpus that was not imported."""
    path = whole(data_dir(info.name)) / SUMMARY
    if path.exists():
        say(f"{info.name}: {Tally.from_json(json.loads(path.read_text(encoding='utf-8'))).summary()}")


def _watched(documents: Iterable[str], bar: Progress) -> Iterator[str]:
    for text in documents:
        bar.advance(len(text.encode("utf-8")) / 1e6)
        yield text


def _counted(documents: Iterable[str], tally: Tally) -> Iterator[str]:
    for text in documents:
        tally.documents += 1
        tally.characters += len(text)
        yield text


def one_at_a_time() -> AbstractContextManager[int]:
    """The lock of the process that makes corpora from local text; another one waits for it, and says so."""
    return lock.hold(base_dir() / "data" / LOCK, "another process is importing text")


@contextmanager
def _empty_folder(path: Path) -> Iterator[Path]:
    """A new folder, deleted afterwards; first deletes what a killed process left in it."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
