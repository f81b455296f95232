"""One command from nothing to a chat: every stage in order, resumable."""

from __future__ import annotations

from nanochat.console import command
from nanochat.pipeline import SpeedrunConfig as Config


def run(config: Config) -> None:
    from nanochat.pipeline import speedrun

    speedrun(config)


main = command(Config, run, __doc__, resumable=True)
