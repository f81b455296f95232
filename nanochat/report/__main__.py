"""The report of a training: `generate` writes report.md and report.html from all runs' metrics, `reset` begins anew.

`compare A.json B.json` says which scores of two evaluations differ beyond noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nanochat.console import UserError, command, say

HIGHEST_PRICE = 1e9  # dollars per hour that may be meant


@dataclass
class Config:
    action: tyro.conf.Positional[Literal["generate", "reset", "compare"]]
    """generate: write report.md and report.html, with copies in the working folder; reset: move report and metrics
    aside; compare: two evaluations"""
    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """compare: the two files that evaluations wrote with --json"""
    model_tag: Annotated[str, tyro.conf.arg(aliases=["-g"])] = ""
    """generate: the model to report on, such as d4; empty: the one that was trained or graded last"""
    price_per_hour: float | None = None
    """what the machine costs, in dollars per hour; without it, what the training was told"""


def run(config: Config) -> None:
    from nanochat import report

    if len(config.files) != (2 if config.action == "compare" else 0):
        remedy = "Give it two" if config.action == "compare" else "Leave them out: only report compare takes files"
        raise UserError(f"report {config.action} was given {len(config.files)} files", remedy)
    if config.action == "compare":
        from nanochat.report.compare import compare

        say(compare(*config.files))
        return
    if config.action == "reset":
        aside = report.reset()
        say(f"The old report and metrics are now in {aside}." if aside else "There was no report to clear.")
        return
    if config.price_per_hour is not None and not 0 <= config.price_per_hour <= HIGHEST_PRICE:
        raise UserError(f"--price_per_hour is {config.price_per_hour}", f"Give dollars from 0 to {HIGHEST_PRICE:g}")
    report.generate(config.price_per_hour, copy_to=Path.cwd(), tag=config.model_tag)


main = command(Config, run, __doc__)
