"""The names of corpora, and the corpus that a name or a path stands for."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from nanochat.console import UserError
from nanochat.corpus.hub import downloading
from nanochat.corpus.info import CorpusInfo, corpus_names, find_info
from nanochat.paths import slug

TINYWORLD = "tinyworld"


@dataclass(frozen=True)
class HubCorpus:
    """A shuffled corpus on the Hub: shard_00000.parquet to shard_<last>, the last one for validation."""

    repo: str
    last: int


HUB_CORPORA = {
    "climbmix": HubCorpus("karpathy/climbmix-400b-shuffle", last=6542),
    "fineweb-edu": HubCorpus("karpathy/fineweb-edu-100b-shuffle", last=1822),
}


BUILT_IN = (TINYWORLD, *HUB_CORPORA, "hub")


def corpus_name(dataset: str) -> str:
    """The name that `prepare(dataset)` gives a corpus; for a path, the name of its file or folder.

    If another corpus has that name already, a few digits of the path's hash are added.
    """
    path = Path(dataset)
    if dataset == TINYWORLD or dataset in HUB_CORPORA or not path.exists():
        return dataset
    path = path.resolve()
    own = path.stem if path.is_file() else path.name
    name = slug(own)
    marked = f"{name}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"
    for candidate in (name, _ascii_slug(own), marked):
        before = find_info(candidate)
        if before and before.source == str(path):
            return candidate
    return marked if name in BUILT_IN or find_info(name) else name


def _ascii_slug(text: str) -> str:
    """The ASCII slug that older versions made of a name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def load_info(name: str) -> CorpusInfo:
    """The prepared corpus `name`, or that of the path; UserError if a shard is neither there nor being downloaded."""
    path = Path(name)
    info = find_info(name) or find_info(corpus_name(name) if path.exists() else slug(path.name))
    if info is None:
        ready = ", ".join(corpus_names())
        if name == TINYWORLD or name in HUB_CORPORA or path.exists():
            remedy = f"Run python -m nanochat.dataset --dataset {name}"
        else:
            remedy = f"Import your text under that name: nanochat dataset import PATH --name {slug(name)}"
        remedy += f", or use one of: {ready}" if ready else ""
        raise UserError(f"there is no prepared dataset {name!r}", remedy)
    arriving = bool(info.pending) and downloading(info.folder)
    if info.pending and not arriving:
        info = find_info(info.name) or info  # the last one may have arrived while we asked
    for shard in info.shards:
        if shard.pending and arriving:
            continue
        if shard.pending or not (info.folder / shard.file).is_file():
            again = f"--dataset {info.source if Path(info.source).exists() else name}"
            if "files" in info.settings:  # only an import records this
                again = f"import {info.source} --name {info.name}"
            remedy = f"Run python -m nanochat.dataset {again} again"
            if shard.pending:
                planned = len(info.shards) - 1 + len(info.skipped)
                remedy = f"Run python -m nanochat.dataset {again} -n {planned} again, or with a smaller -n for less"
            raise UserError(f"the dataset {name} lacks {info.folder / shard.file}", remedy)
    return info
