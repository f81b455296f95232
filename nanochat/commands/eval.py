"""Examine an evaluation itself: `eval overlap CORPUS` looks for its items in a training corpus (docs/evaluation.md).

nanochat eval overlap climbmix
nanochat eval overlap path/to/texts --json overlap.json
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from nanochat.console import command, say


@dataclass
class Config:
    action: tyro.conf.Positional[Literal["overlap"]]
    """count the items of CORE and of the available chat tasks that are in the corpus"""
    corpus: tyro.conf.Positional[str]
    """name of a prepared dataset (its training split), or a file or folder of txt, md, jsonl or parquet"""
    json: Path | None = None
    """file for the results, with the numbers of the items found"""


def run(config: Config) -> None:
    from nanochat.eval import corpus_overlap, require_writable
    from nanochat.paths import write_json

    require_writable(config.json)
    began = time.monotonic()
    record = corpus_overlap(config.corpus)
    if config.json is not None:
        write_json(config.json, {**record, "seconds": round(time.monotonic() - began, 3)})
        say(f"Results: {config.json}")


main = command(Config, run, __doc__)
