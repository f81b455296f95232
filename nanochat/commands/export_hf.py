"""Export a model as a folder that transformers, or mlx-lm on a Mac, loads without nanochat.

nanochat export_hf -i sft --output my-model
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from nanochat.console import command


@dataclass
class Config:
    output: Annotated[str, tyro.conf.arg(aliases=["-o"])]
    """folder to write: a new or empty one, or an earlier export that nobody changed"""
    source: Annotated[Literal["base", "mid", "sft", "rl"], tyro.conf.arg(aliases=["-i"])] = "sft"
    """stage of the checkpoint"""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint, such as d4; default: the one written last"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; default: the newest"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """type of the weights; bfloat16 halves the files, and rounds the logits"""
    format: Literal["hf", "mlx"] = "hf"
    """hf: for transformers; mlx: for mlx-lm, which has the classic model only"""
    unrounded_rope: bool = False
    """only for imported models of 2025: leave out the rounding of their rotary tables, which transformers' own model
    and mlx-lm's do not have; their logits then differ a little"""


def run(config: Config) -> None:
    from nanochat.hub import export_hf

    export_hf(
        config.source, config.output, config.model_tag, config.step, config.dtype, config.format, config.unrounded_rope
    )


main = command(Config, run, __doc__)
