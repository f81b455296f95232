"""Text corpora, by name or by path; `prepare` is the one function that gets them ready for training."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from nanochat.console import Progress, UserError, say
from nanochat.corpus import hub, textfiles
from nanochat.corpus.arrival import download_shards
from nanochat.corpus.importing import (
    How,
    NameTakenError,
    document_limit,
    import_files,
    is_made,
    one_at_a_time,
    or_skip,
    require_source,
    settings_of,
    tell,
)
from nanochat.corpus.info import CorpusInfo, corpus_names, find_info
from nanochat.corpus.inplace import use_in_place
from nanochat.corpus.names import BUILT_IN, HUB_CORPORA, TINYWORLD, HubCorpus, corpus_name, load_info
from nanochat.corpus.shards import opened
from nanochat.corpus.shuffle import disk_needed
from nanochat.corpus.tally import BadText, Tally
from nanochat.corpus.writing import too_few, write_corpus
from nanochat.paths import data_dir, require_disk, slug

WORLD_MB = 24
SHARD_NAME = re.compile(r"shard_\d{5,}\.parquet")
REPO = re.compile(r"\w[\w.-]*/[\w.-]+(/.*)?")  # owner/name on the Hub, and an optional path prefix
MAX_GROUP_BYTES = 64 << 20  # a reader holds one row group in memory


CHECK_BYTES = 500_000_000  # of text that `check` reads


def prepare(
    dataset: str,
    n_shards: int = 8,
    world_seed: int = 0,
    world_mb: int = WORLD_MB,
    name: str | None = None,
    skip_bad: bool = False,
) -> CorpusInfo:
    """Make, download or register a corpus; does only what is still missing.

    dataset: tinyworld, climbmix, fineweb-edu, the name of one prepared before, or a path.
    n_shards: training shards to download, for the corpora on the Hub.
    name: the name of a corpus from a path (default: that of its file or folder).
    skip_bad: leave out what cannot be read, and say so, instead of stopping there.
    """
    if n_shards < 1:
        raise UserError(f"cannot prepare {n_shards} shards", "Ask for at least 1")
    named = dataset == TINYWORLD or dataset in HUB_CORPORA
    is_path = bool(dataset) and Path(dataset).exists()  # "" would be the working folder
    if name is not None and (named or not is_path):
        raise UserError(f"--name is for a dataset from a path, which {dataset!r} is not", "Leave --name out")
    if dataset == TINYWORLD:
        return make_tinyworld(world_seed, world_mb)
    if dataset in HUB_CORPORA:
        return _from_hub(dataset, HUB_CORPORA[dataset], n_shards, skip_bad)
    path = Path(dataset).resolve()
    before = find_info(dataset) if slug(dataset) == dataset and name is None else None
    if before and not (is_path and before.source == str(path)):
        return load_info(dataset)
    if is_path:
        return _from_path(path, name, How(skip_bad=skip_bad), as_before=True)
    known = [
        TINYWORLD,
        *HUB_CORPORA,
        *(name for name in corpus_names() if name not in (TINYWORLD, *HUB_CORPORA)),
    ]
    raise UserError(
        f"unknown dataset {dataset!r}",
        f"Choose {', '.join(known)}, or a path to {textfiles.KINDS} that exists",
    )


def check_corpus(dataset: str, n_shards: int = 8, skip_bad: bool = False) -> None:
    """Raise UserError if `prepare` would, but make nothing. Of large text, read only about CHECK_BYTES."""
    if dataset in HUB_CORPORA:
        corpus = HUB_CORPORA[dataset]
        before = find_info(dataset)
        if hub.mirror_dir(corpus.repo):
            _mirrored(corpus)
        elif before is None or before.pending or len(before.shards) <= n_shards:
            hub.remote_files(corpus.repo)
        return
    path = Path(dataset).resolve()
    if dataset == TINYWORLD or not Path(dataset).exists():
        return
    files = textfiles.text_files(path)
    how = How(skip_bad=skip_bad)
    if is_made(find_info(corpus_name(dataset)), settings_of(files, how)):
        return
    size = sum(textfiles.text_size(file) for file in files)
    require_disk(data_dir(corpus_name(dataset)), disk_needed(size), f"the dataset {dataset}")
    tally, read, found = Tally(skip_bad), 0, 0
    with Progress(min(size, CHECK_BYTES) / 1e6, f"check {dataset}", "MB") as bar:
        try:
            for file in files:
                until = read + CHECK_BYTES * textfiles.text_size(file) // max(1, size)
                for text in textfiles.documents(file, document_limit(size), tally=tally):
                    found += 1
                    read += len(text)
                    bar.advance(len(text) / 1e6)
                    if size > CHECK_BYTES and read > until:
                        break
        except BadText as error:
            raise or_skip(error, len(files)) from None
    if found < 2:
        raise too_few(str(path), found)


def make_tinyworld(world_seed: int = 0, mb: int = WORLD_MB) -> CorpusInfo:
    """Write about `mb` million bytes of text on the tiny world of `world_seed`, unless that is done already."""
    from nanochat.synthetic.tinyworld import World, documents

    if mb < 1:
        raise UserError(f"cannot make {mb} MB of the tiny world", "Ask for at least 1")
    settings = {"world_seed": world_seed, "mb": mb, "generator": _generator_digest()}
    if is_made(find_info(TINYWORLD), settings):
        return load_info(TINYWORLD)
    with one_at_a_time():
        if is_made(find_info(TINYWORLD), settings):  # by another process while this one waited
            return load_info(TINYWORLD)
        size = mb * 1_000_000
        require_disk(data_dir(TINYWORLD), size, f"the dataset {TINYWORLD}")
        texts = _first_bytes(documents(World(world_seed), 0, 0), size)
        return write_corpus(TINYWORLD, TINYWORLD, texts, settings, size, {"world.json": {"seed": world_seed}})


def _generator_digest() -> str:
    """A hash of documents of one world, of all kinds: if the generator writes other text, corpora are made anew."""
    from nanochat.synthetic.tinyworld import World, document

    world, digest = World(0), hashlib.sha256()
    for k in range(0, 60_000, 30):
        digest.update(document(world, 0, k).encode("utf-8"))
    return digest.hexdigest()[:16]


def _first_bytes(documents: Iterable[str], count: int) -> Iterator[str]:
    for text in documents:
        if count <= 0:
            return
        count -= len(text.encode("utf-8"))
        yield text


def _from_hub(name: str, corpus: HubCorpus, n_shards: int, skip_bad: bool = False) -> CorpusInfo:
    """The first `n_shards` shards and the last one, from the mirror or downloaded; keeps what is there."""
    if hub.mirror_dir(corpus.repo):
        files = _mirrored(corpus)
        if len(files) - 1 < n_shards:
            say(f"{name}: the mirror has {len(files) - 1} training shards, not {n_shards}")
        return use_in_place(name, corpus.repo, [*files[:-1][:n_shards], files[-1]], skip_bad)
    numbers = [*range(min(n_shards, corpus.last)), corpus.last]
    return download_shards(name, corpus.repo, [f"shard_{number:05d}.parquet" for number in numbers], skip_bad)


def _mirrored(corpus: HubCorpus) -> list[Path]:
    """The shards that the mirror has."""
    mirror = hub.mirror_dir(corpus.repo)
    files = sorted(file for file in mirror.iterdir() if SHARD_NAME.fullmatch(file.name)) if mirror else []
    if len(files) < 2:
        raise UserError(f"{mirror} has {len(files)} shards", "It needs shard_00000.parquet and a last one")
    return files


def import_text(source: str, name: str | None = None, how: How | None = None) -> CorpusInfo:
    """Import a path or the Hub dataset `owner/name` as a corpus; `owner/name/train` takes only paths in train*.

    name: what to call it (default: after the file, folder or data set). UserError says what cannot be read.
    """
    how = how or How()
    path = Path(source)
    if source and path.exists():
        return _from_path(path.resolve(), name, how)
    owner, _, rest = source.partition("/")
    if not REPO.fullmatch(source) or Path(owner).exists():  # owner may well be a folder in a mistyped path
        remedy = "Give the path of your text, or owner/name of a dataset on the Hub"
        raise UserError(f"there is no file or folder {source}", remedy)
    repo, _, prefix = rest.partition("/")
    name = _free_name(slug(name or repo), source)
    return import_files(name, source, hub.repo_parquets(f"{owner}/{repo}", prefix), how)


def _from_path(path: Path, name: str | None, how: How, as_before: bool = False) -> CorpusInfo:
    """as_before: use the options of the earlier import; files that have not changed are not read again."""
    if name is not None:
        return _import_path(path, _free_name(slug(name), str(path)), how, as_before)
    try:
        return _import_path(path, corpus_name(str(path)), how, as_before)
    except NameTakenError:  # another process took the name: choose another one
        return _import_path(path, corpus_name(str(path)), how, as_before)


def _import_path(path: Path, name: str, how: How, as_before: bool) -> CorpusInfo:
    files = textfiles.text_files(path)
    before = find_info(name)
    if as_before and before:
        if is_made(before, {**before.settings, "files": settings_of(files, how)["files"]}):
            tell(before)
            return before
        names = [option.name for option in fields(How)]
        then = {option: value for option, value in before.settings.items() if option in names}
        how = How(**{**then, "skip_bad": how.skip_bad or then.get("skip_bad", False)})
    if how.in_place and _has_shard_layout(path, files):
        return use_in_place(name, str(path), files, how.skip_bad)
    own = data_dir(name).resolve()
    if own == path or own in path.parents:
        raise UserError(f"{path} is where the dataset {name} would be written", "Give it another name: --name NAME")
    ignored = sum(file.is_file() for file in path.rglob("*")) - len(files) if path.is_dir() else 0
    if ignored:
        say(f"{name}: leaving out {ignored} files that are hidden or not {textfiles.KINDS}")
    return import_files(name, str(path), files, how)


def _free_name(name: str, source: str) -> str:
    """`name`; UserError if a built-in corpus or one from another source has it."""
    taken = "is built in" if name in BUILT_IN else ""
    if taken:
        raise UserError(f"the name {name!r} {taken}", f"Give {source} another one: --name NAME")
    require_source(find_info(name), source)
    return name


def _has_shard_layout(path: Path, files: list[Path]) -> bool:
    """Whether a folder holds two or more files shard_NNNNN.parquet with row groups that fit in memory.

    Of an unreadable file only the name counts: the error comes when the shards are used.
    """
    if not path.is_dir() or len(files) < 2:
        return False
    if any(file.parent != path or not SHARD_NAME.fullmatch(file.name) for file in files):
        return False
    for file in files:
        with suppress(UserError), opened(file) as parquet:
            footer = parquet.metadata
            groups = (footer.row_group(place) for place in range(footer.num_row_groups))
            if any(group.total_byte_size > MAX_GROUP_BYTES for group in groups):
                return False
    return True
