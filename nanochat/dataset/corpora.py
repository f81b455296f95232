"""Where text comes from, by name or by path; `prepare` is the one door that gets it ready for training."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat.console import Progress, UserError, say
from nanochat.dataset import hub, textfiles
from nanochat.dataset.info import META, CorpusInfo, ShardInfo, corpus_names, find_info, load_info
from nanochat.dataset.shards import opened, scan
from nanochat.dataset.shuffle import shuffled
from nanochat.dataset.writing import VAL_EVERY, write_corpus
from nanochat.paths import data_dir, slug, write_json

TINYWORLD = "tinyworld"
WORLD_MB = 24
IMPORT_SEED = 1337
SHARD_NAME = re.compile(r"shard_\d{5,}\.parquet")
MAX_GROUP_BYTES = 256 << 20  # a reader holds one row group in memory


@dataclass(frozen=True)
class HubCorpus:
    """A shuffled corpus on the Hub: shard_00000.parquet to shard_<last>, the last one for validation."""

    repo: str
    last: int


HUB_CORPORA = {
    "climbmix": HubCorpus("karpathy/climbmix-400b-shuffle", last=6542),
    "fineweb-edu": HubCorpus("karpathy/fineweb-edu-100b-shuffle", last=1822),
}


def prepare(
    dataset: str, n_shards: int = 8, world_seed: int = 0, world_mb: int = WORLD_MB, name: str | None = None
) -> CorpusInfo:
    """Make, download or register a corpus; does only what is still missing.

    dataset: tinyworld, climbmix, fineweb-edu, the name of one prepared before, or a path.
    n_shards: training shards to download, for the corpora on the Hub.
    name: what a corpus from a path shall be called (default: after its file or folder).
    """
    if n_shards < 1:
        raise UserError(f"cannot prepare {n_shards} shards", "Ask for at least 1")
    named = dataset == TINYWORLD or dataset in HUB_CORPORA
    is_path = bool(dataset) and Path(dataset).exists()  # "" would be the working folder
    if name is not None and (named or not is_path):
        raise UserError(f"--name is for a dataset from a path, and {dataset!r} is none", "Leave it out")
    if dataset == TINYWORLD:
        return make_tinyworld(world_seed, world_mb)
    if dataset in HUB_CORPORA:
        return _from_hub(dataset, HUB_CORPORA[dataset], n_shards)
    path = Path(dataset).resolve()
    before = find_info(dataset) if slug(dataset) == dataset and name is None else None
    if before and not (is_path and before.source == str(path)):
        return load_info(dataset)
    if is_path:
        return _from_path(path, name)
    known = [
        TINYWORLD,
        *HUB_CORPORA,
        *(name for name in corpus_names() if name not in (TINYWORLD, *HUB_CORPORA)),
    ]
    raise UserError(
        f"unknown dataset {dataset!r}",
        f"Choose {', '.join(known)}, or a path to {textfiles.KINDS} that exists",
    )


def corpus_name(dataset: str) -> str:
    """The name that `prepare(dataset)` gives a corpus: that of its file or folder when it is a path."""
    path = Path(dataset)
    if dataset == TINYWORLD or dataset in HUB_CORPORA or not path.exists():
        return dataset
    path = path.resolve()
    return slug(path.stem if path.is_file() else path.name)


def make_tinyworld(world_seed: int = 0, mb: int = WORLD_MB) -> CorpusInfo:
    """Write about `mb` million bytes about the tiny world of `world_seed`, unless they are there already."""
    from nanochat.dataset.tinyworld import World, documents

    if mb < 1:
        raise UserError(f"cannot make {mb} MB of the tiny world", "Ask for at least 1")
    settings = {"world_seed": world_seed, "mb": mb, "generator": _generator_digest()}
    if _same_as_before(TINYWORLD, settings):
        return load_info(TINYWORLD)
    texts = _first_bytes(documents(World(world_seed), 0, 0), mb * 1_000_000)
    return write_corpus(TINYWORLD, TINYWORLD, texts, settings, mb * 1_000_000, {"world.json": {"seed": world_seed}})


def _generator_digest() -> str:
    """Changes with the code that writes the tiny world, so that text of an older one is made anew."""
    from nanochat.dataset import tinyworld

    files = sorted(file for file in Path(str(tinyworld.__file__)).parent.iterdir() if file.suffix in (".py", ".txt"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _first_bytes(documents: Iterable[str], count: int) -> Iterator[str]:
    for text in documents:
        if count <= 0:
            return
        count -= len(text.encode("utf-8"))
        yield text


def _same_as_before(name: str, settings: dict[str, object]) -> bool:
    info = find_info(name)
    return info is not None and info.settings == settings and all((info.folder / s.file).exists() for s in info.shards)


def _from_hub(name: str, corpus: HubCorpus, n_shards: int) -> CorpusInfo:
    """The first `n_shards` shards and the last one, from the mirror or downloaded; keeps what is there."""
    before = find_info(name)
    mirror = hub.mirror_dir(corpus.repo)
    if mirror:
        files = sorted(file for file in mirror.iterdir() if SHARD_NAME.fullmatch(file.name))
        if len(files) < 2:
            raise UserError(f"{mirror} has {len(files)} shards", "It needs shard_00000.parquet and a last one")
        if len(files) - 1 < n_shards:
            say(f"{name}: the mirror has {len(files) - 1} training shards, not {n_shards}")
        return _register(name, corpus.repo, mirror, [*files[:-1][:n_shards], files[-1]], before)
    folder = data_dir(name)
    names = [f"shard_{place:05d}.parquet" for place in [*range(min(n_shards, corpus.last)), corpus.last]]
    had = [shard.file for shard in before.shards] if before and before.folder == folder else []
    wanted = sorted({*names, *had})
    missing = [file for file in wanted if not (folder / file).exists()]
    if missing:
        sizes = hub.remote_files(corpus.repo)
        gone = [file for file in missing if file not in sizes]
        if gone:
            raise UserError(f"the Hub repository {corpus.repo} has no {gone[0]}", "Ask for fewer shards (-n)")
        hub.download(corpus.repo, {file: sizes[file] for file in missing}, folder)
    return _register(name, corpus.repo, folder, [folder / file for file in wanted], before)


def _from_path(path: Path, name: str | None) -> CorpusInfo:
    name = slug(name) if name is not None else corpus_name(str(path))
    taken = "is built in" if name in (TINYWORLD, *HUB_CORPORA) or name == "hub" else ""
    before = None if taken else find_info(name)
    if before and before.source != str(path):
        taken = f"already stands for {before.source}"
    if taken:
        raise UserError(f"the name {name!r} {taken}", f"Give {path} another one: --name NAME")
    files = textfiles.text_files(path)
    if _has_shard_layout(path, files):
        return _register(name, str(path), path, files, before)
    settings = {"files": _fingerprint(path, files), "seed": IMPORT_SEED}
    if _same_as_before(name, settings):
        return load_info(name)
    ignored = sum(file.is_file() for file in path.rglob("*")) - len(files) if path.is_dir() else 0
    if ignored:
        say(f"{name}: leaving out {ignored} files that are not {textfiles.KINDS}")
    size = sum(textfiles.text_size(file) for file in files)
    # no document should be larger than all of validation
    limit = min(max(size // VAL_EVERY, 2_000), textfiles.LIMIT)
    texts = (text for file in files for text in textfiles.documents(file, limit))
    scratch = data_dir(name).parent
    scratch.mkdir(parents=True, exist_ok=True)
    return write_corpus(name, str(path), shuffled(texts, IMPORT_SEED, size, scratch), settings, size)


def _has_shard_layout(path: Path, files: list[Path]) -> bool:
    """True for two or more files shard_NNNNN.parquet of a folder, in row groups that fit in memory."""
    if not path.is_dir() or len(files) < 2:
        return False
    if any(file.parent != path or not SHARD_NAME.fullmatch(file.name) for file in files):
        return False
    for file in files:
        with opened(file) as parquet:
            footer = parquet.metadata
            groups = (footer.row_group(place) for place in range(footer.num_row_groups))
            if any(group.total_byte_size > MAX_GROUP_BYTES for group in groups):
                return False
    return True


def _register(name: str, source: str, folder: Path, files: list[Path], before: CorpusInfo | None) -> CorpusInfo:
    """Use the files where they are; a shard of the size it had before is not read through again."""
    known = {(s.file, s.size): s for s in before.shards} if before and before.folder == folder else {}
    shards: list[ShardInfo] = []
    with Progress(len(files), f"check {name}", "shards") as bar:
        for file in files:
            shards.append(known.get((file.name, file.stat().st_size)) or scan(file))
            bar.advance(1)
    info = CorpusInfo(name, source, folder, tuple(shards))
    if info != before:
        write_json(data_dir(name) / META, info.to_json())
    return info


def _fingerprint(path: Path, files: list[Path]) -> str:
    """Changes when a file is added, removed or edited."""
    root = path if path.is_dir() else path.parent
    facts = [(file.relative_to(root).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
