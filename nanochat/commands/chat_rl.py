"""Reinforcement learning: a chat model answers, a task grades, and good answers become likelier.

python -m scripts.chat_rl --task=SpellingBee

torchrun --standalone --nproc_per_node=8 -m scripts.chat_rl -- --task=GSM8K
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from nanochat.console import command
from nanochat.train import RLConfig


@dataclass
class Config(RLConfig):
    source: Annotated[Literal["mid", "sft"], tyro.conf.arg(aliases=["-i"])] = "sft"
    """stage of the model to start from"""
    # Steps and validations are counted in questions, not in tokens.
    total_batch_size: tyro.conf.Suppress[tyro.conf.Fixed[int]] = -1
    eval_tokens: tyro.conf.Suppress[tyro.conf.Fixed[int]] = 0
    fp8: tyro.conf.Suppress[tyro.conf.Fixed[bool]] = False


def run(config: Config) -> None:
    from nanochat.hub import training_backed_up
    from nanochat.train import train_rl
    from nanochat.train.config import check_config

    check_config(config)
    with training_backed_up(config.backup, config.on_finish) as begun:
        train_rl(config, begun=begun)


main = command(Config, run, __doc__, resumable=True)
