"""report.md, report.html and the picture: made from all runs, copied to the working folder, cleared for a new start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from nanochat.console import UserError, say, speedrun_command, warn
from nanochat.paths import base_dir, report_dir, runs_dir, write_atomic
from nanochat.report import markdown, page
from nanochat.report.blocks import Report
from nanochat.report.course import PICTURE
from nanochat.report.curve import loss_picture
from nanochat.report.runs import Runs
from nanochat.report.sections import about, all_sections
from nanochat.report.source import Source


def generate(price_per_hour: float | None = None, copy_to: Path | None = None, tag: str = "") -> Path:
    """Write report.md, report.html and loss.png into the report folder, and a copy into `copy_to` if possible; print
    where.

    price_per_hour: in dollars; None for what the training was told. tag: of the model to report on; "" for the one that
    wrote metrics last.
    """
    runs = Runs.read(runs_dir(), tag)
    if not runs.records:
        raise UserError(
            f"there is nothing to report: no run has left metrics under {runs_dir()}",
            f"Run {speedrun_command()} first",
        )
    try:
        picture = loss_picture(runs)
    except Exception as error:  # over what it reads, or what is installed
        warn(f"warning: no picture of the losses: {error}")
        picture = None
    made = assemble(runs, price_per_hour, with_picture=picture is not None)
    files: dict[str, str | bytes] = {"report.md": markdown.write(made), "report.html": page.write(made)}
    if picture is not None:
        files[PICTURE] = picture
    path = _write(report_dir(), files)
    copied = ""
    if copy_to is not None and copy_to.resolve() != report_dir().resolve():
        try:
            copied = f", copied to {_write(copy_to, files)}"
        except UserError as error:  # hours of training must not end in an error over a copy
            warn(f"warning: no copy of the report in {copy_to}: {error.problem}")
    say(f"Report: {path} and report.html beside it{copied}")
    return path


def _write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    for name, data in files.items():
        write_atomic(folder / name, data)
    return folder / "report.md"


def assemble(runs: Runs, price_per_hour: float | None = None, with_picture: bool = False) -> Report:
    source = Source.of(runs, price_per_hour, with_picture)
    return Report(runs.tag, about(source), f"Made {time.strftime('%Y-%m-%d %H:%M')}", all_sections(source))


def render(runs: Runs, price_per_hour: float | None = None, with_picture: bool = False) -> str:
    """The report's Markdown."""
    return markdown.write(assemble(runs, price_per_hour, with_picture))


def reset() -> Path | None:
    """Move the report and all runs' metrics aside; the folder they are in now, or None if there were none."""
    filled = [folder for folder in (report_dir(), runs_dir()) if folder.is_dir() and any(folder.iterdir())]
    if not filled:
        return None
    aside = base_dir() / "reports" / time.strftime("%Y%m%d-%H%M%S")
    number = 1
    while aside.exists():
        number += 1
        aside = aside.with_name(f"{aside.name.split('_')[0]}_{number}")
    aside.mkdir(parents=True)
    for folder in filled:
        folder.rename(aside / folder.name)
    return aside
