"""The report of a training: `generate` writes report.md from all runs' metrics, `reset` begins a new one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from nanochat.console import UserError, run_command, say


@dataclass
class Config:
    action: tyro.conf.Positional[Literal["generate", "reset"]]
    """generate: write report.md, with a copy in the working folder; reset: move report and metrics aside"""
    price_per_hour: float | None = None
    """What the machine costs per hour, in any currency; without it costs are not given"""


def run(config: Config) -> None:
    from nanochat import report

    if config.action == "reset":
        aside = report.reset()
        say(f"The old report and metrics are now in {aside}." if aside else "There was no report to clear.")
        return
    if config.price_per_hour is not None and config.price_per_hour < 0:
        raise UserError(f"--price_per_hour is {config.price_per_hour}", "Give a price of 0 or more")
    path = report.generate(config.price_per_hour, copy_to=Path.cwd())
    say(f"Report: {path}, copied to {Path.cwd() / 'report.md'}")


def main() -> None:
    run_command(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
