"""Get text ready: download shards, make the tiny world, or turn your own text into shards (`dataset import --help`)."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from nanochat.console import run_command, say
from nanochat.metrics import FILE, MetricsWriter
from nanochat.paths import runs_dir

if TYPE_CHECKING:
    from nanochat.corpus import CorpusInfo


@dataclass
class Config:
    n: Annotated[int, tyro.conf.arg(aliases=["-n"], name="num-files")] = 8
    """Training shards to download (about 250 MB of text each), besides the validation shard."""
    dataset: str = "climbmix"
    """tinyworld, climbmix, fineweb-edu, a prepared dataset, or a path to parquet, jsonl, txt or md."""
    world_seed: int = 0
    """Seed of the tiny world."""
    world_mb: int = 24
    """Text to write about the tiny world, in MB."""
    name: str | None = None
    """Name for a dataset from a path (default: its folder or file name)."""
    skip_bad: bool = False
    """Leave out files and rows that cannot be read, and count them, instead of stopping at the first."""


@dataclass
class Import:
    src: tyro.conf.Positional[str]
    """File or folder of parquet, jsonl, txt or md (also .gz, .bz2, .zst), or owner/name of a dataset on the Hub;
    owner/name/train takes only its files whose path begins with train."""
    name: str | None = None
    """Name of the dataset (default: the folder, file or dataset name)."""
    dedup: bool = False
    """Leave out exact duplicates of documents."""
    column: str | None = None
    """Column of parquet or field of jsonl with the text or the messages (default: text, else messages)."""
    skip_bad: bool = False
    """Leave out files and rows that cannot be read, and count them, instead of stopping at the first."""
    seed: int = 1337
    """Seed of the shuffle."""


def run(config: Config) -> None:
    from nanochat.corpus import prepare

    began = time.monotonic()
    info = prepare(config.dataset, config.n, config.world_seed, config.world_mb, config.name, config.skip_bad)
    _finish(info, time.monotonic() - began)


def run_import(config: Import) -> None:
    from nanochat.corpus import How, import_text

    began = time.monotonic()
    info = import_text(config.src, config.name, How(config.seed, config.dedup, config.column, config.skip_bad))
    _finish(info, time.monotonic() - began)


def _finish(info: CorpusInfo, seconds: float) -> None:
    MetricsWriter(runs_dir("dataset") / FILE).write(
        "summary",
        dataset=info.name,
        source=info.source,
        train_docs=info.train_docs,
        val_docs=info.val_docs,
        train_bytes=info.train_bytes,
        val_bytes=info.val_bytes,
        seconds=round(seconds, 2),
    )
    say(
        f"dataset {info.name}: {info.train_docs:,} documents ({info.train_bytes / 1e6:,.1f} MB) to train on, "
        f"{info.val_docs:,} ({info.val_bytes / 1e6:,.1f} MB) for validation, in {info.folder}"
    )


def main() -> None:
    if sys.argv[1:2] == ["import"]:
        run_command(Import, run_import, description=__doc__, argv=sys.argv[2:], prog="nanochat dataset import")
    else:
        run_command(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
