"""report.md and its picture: made from all runs, copied to the working folder, cleared for a new start."""

from __future__ import annotations

import time
from pathlib import Path

from nanochat.console import UserError, say, warn
from nanochat.paths import base_dir, report_dir, runs_dir, write_atomic
from nanochat.report import sections
from nanochat.report.curve import loss_picture
from nanochat.report.facts import facts
from nanochat.report.runs import Runs

PICTURE = "loss.png"


def generate(price_per_hour: float | None = None, copy_to: Path | None = None, tag: str = "") -> Path:
    """Write report.md and loss.png into the report folder, and a copy into `copy_to` if possible; print where.

    tag: of the model to report on; "" for the one that wrote metrics last.
    """
    runs = Runs.read(runs_dir(), tag)
    if not runs.records:
        raise UserError(
            f"there is nothing to report: no run has left metrics under {runs_dir()}",
            "Run bash speedrun.sh first",
        )
    picture = loss_picture(runs)
    text = render(runs, price_per_hour, with_picture=picture is not None)
    path = _write(report_dir(), text, picture)
    copied = ""
    if copy_to is not None and copy_to.resolve() != report_dir().resolve():
        try:
            copied = f", copied to {_write(copy_to, text, picture)}"
        except UserError as error:  # hours of training must not end in an error over a copy
            warn(f"warning: no copy of the report in {copy_to}: {error.problem}")
    say(f"Report: {path}{copied}")
    return path


def _write(folder: Path, text: str, picture: bytes | None) -> Path:
    if picture is not None:
        write_atomic(folder / PICTURE, picture)
    write_atomic(folder / "report.md", text)
    return folder / "report.md"


def render(runs: Runs, price_per_hour: float | None = None, with_picture: bool = False) -> str:
    """The report's Markdown."""
    price = price_per_hour
    parts = [
        f"# nanochat report{f': {runs.tag}' if runs.tag else ''}\n\nMade {time.strftime('%Y-%m-%d %H:%M')}",
        sections.summary(runs, price),
        sections.metrics(runs),
        sections.categories(runs),
        f"## Loss\n\n![training loss and validation bits per byte over tokens]({PICTURE})" if with_picture else "",
        sections.reinforcement(runs),
        sections.times(runs, price),
        sections.machine(facts()),
        sections.stages(runs),
        sections.core(runs),
        sections.samples(runs),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


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
