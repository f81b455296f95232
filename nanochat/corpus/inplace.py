"""Use a folder of ready-made shards as a corpus without a copy; with skip_bad, copy only shards with bad rows."""

from __future__ import annotations

from pathlib import Path

from nanochat.console import Progress, UserError, say, warn
from nanochat.corpus.importing import SUMMARY, How, is_made, one_at_a_time, or_skip, require_source, settings_of, tell
from nanochat.corpus.info import META, CorpusInfo, ShardInfo, find_info
from nanochat.corpus.rows import parquet_texts
from nanochat.corpus.shards import scan
from nanochat.corpus.tally import BadText, Tally
from nanochat.corpus.writing import ShardWriter
from nanochat.paths import data_dir, replace_folder, write_json

MENDED = "mended"


def use_in_place(name: str, source: str, files: list[Path], skip_bad: bool = False) -> CorpusInfo:
    """Make corpus `name` of the shards `files` of one folder, the last one for validation.

    A shard whose size has not changed is not read again. With skip_bad, a shard with bad rows is copied without them
    to MENDED in the corpus's folder, beside links to the others, and an unreadable shard is left out.
    """
    ready = _ready(name, source, files, skip_bad)
    if ready:
        return ready
    with one_at_a_time():
        # again: another process may have changed it while we waited
        require_source(find_info(name), source)
        return _ready(name, source, files, skip_bad) or _read_through(name, source, files, skip_bad)


def _ready(name: str, source: str, files: list[Path], skip_bad: bool) -> CorpusInfo | None:
    """The corpus, when there is nothing left to do."""
    before = find_info(name)
    if skip_bad and before and is_made(before, settings_of(files, How(skip_bad=True))):
        tell(before)
        return before
    known = _known(before, files)
    shards = tuple(known[file] for file in files if file in known)
    info = CorpusInfo(name, source, files[0].parent, shards)
    return info if info == before and len(shards) == len(files) else None


def _known(before: CorpusInfo | None, files: list[Path]) -> dict[Path, ShardInfo]:
    """The earlier ShardInfo of each of `files` whose size has not changed."""
    if before is None or before.folder != files[0].parent:
        return {}
    shards = {(shard.file, shard.size): shard for shard in before.shards}
    found = {file: shards.get((file.name, file.stat().st_size)) for file in files}
    return {file: shard for file, shard in found.items() if shard}


def _read_through(name: str, source: str, files: list[Path], skip_bad: bool) -> CorpusInfo:
    known = _known(find_info(name), files)
    shards: dict[Path, ShardInfo] = {}
    bad: list[Path] = []
    with Progress(len(files), f"check {name}", "shards") as bar:
        for file in files:
            try:
                shards[file] = known.get(file) or scan(file)
            except UserError as error:
                if not skip_bad:
                    raise or_skip(_first_bad(file) or error) from None
                bad.append(file)
            bar.advance(1)
    if bad:
        return _without_bad(name, source, files, shards)
    info = CorpusInfo(name, source, files[0].parent, tuple(shards.values()))
    write_json(data_dir(name) / META, info.to_json())
    return info


def _first_bad(file: Path) -> BadText | None:
    """The error for the first bad row of a shard or for all of it, if any."""
    try:
        for _ in parquet_texts(file, ("text",), Tally()):
            pass
    except BadText as error:
        return error
    return None


def _without_bad(name: str, source: str, files: list[Path], good: dict[Path, ShardInfo]) -> CorpusInfo:
    """Link the good shards, and copy the readable rows of the others."""
    folder = data_dir(name) / MENDED
    tally = Tally(skip_bad=True)
    shards: list[ShardInfo] = []
    with replace_folder(folder) as part:
        for file in files:
            if file in good:
                (part / file.name).symlink_to(file.resolve())
                shards.append(good[file])
                continue
            try:
                copy = _mended(file, part, tally)
            except BadText as error:
                tally.bad(BadText(f"all of {file} ({error.problem})", error.remedy, error.reason))
                continue
            if copy:
                shards.append(copy)
        if len(shards) < 2:
            raise UserError(
                f"{source} has {len(shards)} shards that can be read", "It needs at least two: get it again"
            )
        if shards[-1].file != files[-1].name:
            warn(f"{name}: {shards[-1].file} is for validation, since {files[-1].name} was left out")
    tally.documents = sum(shard.documents for shard in shards)
    info = CorpusInfo(name, source, folder, tuple(shards), settings_of(files, How(skip_bad=True)))
    write_json(data_dir(name) / SUMMARY, tally.to_json())
    write_json(data_dir(name) / META, info.to_json())
    say(f"{name}: {tally.summary()}")
    return info


def _mended(file: Path, folder: Path, tally: Tally) -> ShardInfo | None:
    """A copy of the shard in `folder` without its bad rows; None when no row is left."""
    writer = ShardWriter(folder / file.name)
    try:
        for text in parquet_texts(file, ("text",), tally):
            writer.add(text, len(text.encode("utf-8")))
    finally:
        writer.close()
        if not writer.documents:
            writer.path.unlink()
    return writer.renamed(file.name) if writer.documents else None
