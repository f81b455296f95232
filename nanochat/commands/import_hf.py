"""Import a NanoChat model of the transformers library, or what export_hf wrote, from a folder or the Hub.

nanochat import_hf karpathy/nanochat-d32 --tag=d32
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from nanochat.console import command


@dataclass
class Config:
    src: tyro.conf.Positional[str]
    """Folder with config.json, model.safetensors and tokenizer.json, or owner/name of a Hub repository
    (owner/name/folder for a folder in it)."""
    stage: Literal["", "base", "mid", "sft", "rl"] = ""
    """What it becomes; empty: what its folder's name or the export that wrote it says, else sft if it has a chat
    template, and base if it has none."""
    tag: str = ""
    """Name of the model here; empty: its folder's name."""
    tokenizer: str = ""
    """Folder (or tokenizer.json, tokenizer.pkl, or Hub repository) with its tokenizer; empty: with the model."""


def run(config: Config) -> None:
    from nanochat.hub import import_hf

    import_hf(config.src, config.stage, config.tag, config.tokenizer)


main = command(Config, run, __doc__)
