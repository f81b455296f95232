"""Export a model as one HTML file that answers in any browser, offline: to be mailed, put on a stick, or shared.

nanochat export_html -i sft --output my_bot.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from nanochat.console import command


@dataclass
class Config:
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])]
    """file to write, such as my_bot.html; one that an earlier export wrote is replaced"""
    source: Annotated[Literal["base", "mid", "sft", "rl"], tyro.conf.arg(aliases=["-i"])] = "sft"
    """stage of the checkpoint"""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint, such as d4; default: the one written last"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; default: the newest"""
    max_mb: int = 160
    """largest file that may be written, in millions of bytes: a browser needs several times as much memory"""


def run(config: Config) -> None:
    from nanochat.hub import export_html

    export_html(config.source, config.output, config.model_tag, config.step, config.max_mb)


main = command(Config, run, __doc__)
