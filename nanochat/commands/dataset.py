"""Get text ready: download shards, make the tiny world, or import files (`dataset import PATH`)."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Annotated

import tyro

from nanochat.console import run_command, say
from nanochat.metrics import MetricsWriter
from nanochat.paths import runs_dir


@dataclass
class Config:
    n: Annotated[int, tyro.conf.arg(aliases=["-n"], name="num-files")] = 8
    """Training shards to download (about 250 MB of text each); the validation shard comes along."""
    dataset: str = "climbmix"
    """tinyworld, climbmix, fineweb-edu, a prepared dataset, or a path to parquet, jsonl, txt or md."""
    world_seed: int = 0
    """Seed of the tiny world."""
    world_mb: int = 24
    """Text to write about the tiny world, in MB."""
    name: str | None = None
    """Name for a dataset from a path (default: its folder or file name)."""


@dataclass
class Import:
    path: tyro.conf.Positional[str]
    """File or folder of parquet, jsonl, txt or md (also .gz, .bz2, .zst)."""
    name: str | None = None
    """Name to call it by (default: the folder or file name)."""


def run(config: Config) -> None:
    from nanochat.dataset.corpora import prepare

    began = time.monotonic()
    info = prepare(config.dataset, config.n, config.world_seed, config.world_mb, config.name)
    seconds = time.monotonic() - began
    MetricsWriter(runs_dir("dataset") / "metrics.jsonl", fresh=True).write(
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


def run_import(config: Import) -> None:
    from pathlib import Path

    from nanochat.console import UserError

    if not Path(config.path).exists():
        raise UserError(f"there is no file or folder {config.path}", "Give the path of your text")
    # absolute, so that a folder that is called like a built-in dataset is still a path
    run(Config(dataset=str(Path(config.path).resolve()), name=config.name))


def main() -> None:
    if sys.argv[1:2] == ["import"]:
        run_command(Import, run_import, description=__doc__, argv=sys.argv[2:], prog="dataset import")
    else:
        run_command(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
