"""One command from nothing to a chat: every stage in order, resumable."""

from __future__ import annotations

from nanochat.console import run_command
from nanochat.pipeline.settings import SpeedrunConfig as Config


def run(config: Config) -> None:
    from nanochat.pipeline import speedrun

    speedrun(config)


def main() -> None:
    run_command(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
