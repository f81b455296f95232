"""Mid-train: teach a base model conversations, tools and tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from nanochat.console import command
from nanochat.train import ChatConfig


@dataclass
class Config(ChatConfig):
    stage: tyro.conf.Suppress[tyro.conf.Fixed[Literal["mid", "sft"]]] = "mid"


def run(config: Config) -> None:
    from nanochat.hub import training_backed_up
    from nanochat.train import train_chat
    from nanochat.train.config import check_config

    check_config(config)
    with training_backed_up(config.backup, config.on_finish) as begun:
        train_chat(config, begun)


main = command(Config, run, __doc__, resumable=True)
