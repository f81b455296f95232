"""Import a checkpoint of upstream nanochat (2025, or mid-March 2026 and later) from a folder or the Hub.

nanochat import_checkpoint ~/old/base_checkpoints/d20

nanochat import_checkpoint karpathy/nanochat-d32 --stage=sft --tag=d32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from nanochat.console import command


@dataclass
class Config:
    src: tyro.conf.Positional[str]
    """Folder with model_NNNNNN.pt and meta_NNNNNN.json, or owner/name of a Hub repository (owner/name/folder for a
    folder in it)."""
    stage: Literal["", "base", "mid", "sft", "rl"] = ""
    """What it becomes; empty: what its folder's name or its meta file says."""
    tag: str = ""
    """Name of the model here; empty: its folder's name."""
    step: int = -1
    """Step to import; -1: the newest."""
    tokenizer: str = ""
    """Folder (or tokenizer.pkl, or Hub repository) with its tokenizer; empty: with the checkpoint, or in a folder
    "tokenizer" beside or above it."""
    optimizer: bool = True
    """Take the optimiser's state, too (twice as large as the weights), when it is there."""


def run(config: Config) -> None:
    from nanochat.hub import import_checkpoint

    import_checkpoint(config.src, config.stage, config.tag, config.step, config.tokenizer, config.optimizer)


main = command(Config, run, __doc__)
