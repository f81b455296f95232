"""Pretrain a base model: depth is the one dial.

python -m scripts.base_train --depth=4 --dataset=tinyworld

torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- --depth=20
"""

from __future__ import annotations

from nanochat.console import command
from nanochat.train import BaseConfig as Config


def run(config: Config) -> None:
    from nanochat.hub import training_backed_up
    from nanochat.train import train_base
    from nanochat.train.config import check_config

    check_config(config)
    with training_backed_up(config.backup, config.on_finish) as begun:
        train_base(config, begun)


main = command(Config, run, __doc__, resumable=True)
