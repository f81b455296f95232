"""Bring a backup back on this or another machine; the same training command then goes on.

nanochat restore hf://owner/name
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from nanochat.console import command


@dataclass
class Config:
    url: tyro.conf.Positional[str]
    """what --backup named: hf://owner/name, a folder, or a URL of fsspec such as s3://bucket/x"""
    base_dir: Path | None = None
    """folder to restore into; default: NANOCHAT_BASE_DIR"""
    stage: Literal["", "base", "mid", "sft", "rl"] = ""
    """stage to restore; empty: all"""
    tag: str = ""
    """tag to restore, such as d4; empty: all but older runs that were set aside"""
    token: str = ""
    """token for the Hub; empty: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the login (`hf auth login`)"""
    dry_run: bool = False
    """say what would come, and change nothing"""
    yes: bool = False
    """do not ask before another run here is set aside"""


def run(config: Config) -> None:
    from nanochat.hub.restore import restore

    if config.base_dir is not None:
        os.environ["NANOCHAT_BASE_DIR"] = str(config.base_dir.resolve())
    ask = not config.yes and sys.stdin is not None and sys.stdin.isatty()
    elsewhere = config.base_dir is not None
    restore(config.url, config.stage, config.tag, config.token, config.dry_run, ask, elsewhere)


main = command(Config, run, __doc__, resumable=True)
