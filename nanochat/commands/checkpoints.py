"""List checkpoints, verify all their bytes, delete them: `checkpoints ls`, `checkpoints verify`, `checkpoints rm`.

nanochat checkpoints ls --json list.json
nanochat checkpoints verify --stage base --tag d4
nanochat checkpoints rm --stage base --tag d4.previous-1
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from nanochat.console import UserError, duration, file_size, run_command, say

if TYPE_CHECKING:
    from nanochat.checkpoint.listing import Entry

Stage = Literal["base", "mid", "sft", "rl"]
DAY = 24 * 3600


@dataclass
class Config:
    action: tyro.conf.Positional[Literal["ls", "verify", "rm"]]
    """ls: what there is; verify: hash everything; rm: delete. Each has its own --help, as in `checkpoints rm --help`"""


@dataclass
class Ls:
    """List the checkpoints with their size, age and state, and what killed writers left. No file is hashed."""

    stage: Stage | None = None
    """stage to list; default: all"""
    tag: str = ""
    """tag to list, such as d4; default: all, those that were set aside as well"""
    json: Path | None = None
    """file for the list"""


@dataclass
class Verify:
    """Compare every file with its checkpoint's manifest. The exit code is 0 if all of them are whole, else 2."""

    stage: Stage | None = None
    """stage to verify; default: all"""
    tag: str = ""
    """tag to verify; default: all"""
    step: int | None = None
    """step to verify; default: all"""


@dataclass
class Rm:
    """Delete checkpoints, after a question; never those of a training that is at work."""

    stage: Stage | None = None
    """stage of the checkpoints; needed with --tag"""
    tag: str = ""
    """tag whose checkpoints to delete, such as d4 or d4.previous-1"""
    step: tuple[int, ...] = ()
    """steps to delete, as in --step 100 200 (0 or more); default: all of the tag"""
    parts: bool = False
    """delete only what killed writers left, of the stage and tag or of all"""
    yes: bool = False
    """delete without a question"""


def list_all(config: Ls) -> None:
    from nanochat.checkpoint.listing import scan
    from nanochat.checkpoint.removal import leftovers
    from nanochat.paths import base_dir, write_json

    listing, now = scan(config.stage or "", config.tag), time.time()
    if config.json is not None:
        rows = [{**asdict(e), "path": str(e.path), "age": now - e.written} for e in listing.entries]
        write_json(config.json, {"version": 1, "checkpoints": rows, "notes": listing.notes})
    steps = [entry for entry in listing.entries if entry.is_step]
    left = leftovers(listing)
    if listing.entries:
        _table([("stage", "tag", "step", "measured", "size", "age", "state"), *(_row(e, now) for e in listing.entries)])
    for note in listing.notes:
        say(f"note: {note}")
    say(f"{len(steps)} checkpoints, {file_size(sum(e.bytes for e in steps))}, under {base_dir()}")
    if left:
        size = file_size(sum(entry.bytes for entry in left))
        say(f"{len(left)} left over by killed writers, {size}; to remove them: nanochat checkpoints rm --parts")


def _row(entry: Entry, now: float) -> tuple[str, ...]:
    from nanochat.checkpoint.listing import printable

    measured = next((f"{printable(name, 20)} {value:.4g}" for name, value in entry.measured.items()), "-")
    state = f"{entry.state}: {entry.why}" if entry.why else entry.state
    step = f"{entry.step:,}" if entry.step >= 0 else "-"
    return entry.stage, entry.tag, step, measured, file_size(entry.bytes), _age(now - entry.written), state


def _table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = zip(row, widths, rows[0], strict=True)
        cells = [c.rjust(w) if title in ("step", "size", "age") else c.ljust(w) for c, w, title in padded]
        say("  ".join(cells).rstrip())


def _age(seconds: float) -> str:
    return f"{seconds / DAY:,.0f}d" if seconds >= 2 * DAY else duration(max(0.0, seconds))


def verify(config: Verify) -> None:
    from nanochat.checkpoint.checking import check
    from nanochat.checkpoint.listing import scan

    listing = scan(config.stage or "", config.tag)
    entries = [e for e in listing.entries if e.is_step and config.step in (None, e.step)]
    if not entries:
        raise UserError("there is no such checkpoint to verify", "See: nanochat checkpoints ls")
    whole = damaged = 0
    for entry, lines in check(entries):
        whole, damaged = whole + (not lines), damaged + bool(lines)
        for line in lines:
            say(f"damaged: {line}")
        if not lines:
            say(f"whole: {entry.path}")
    for note in listing.notes:
        say(f"note: {note}")
    if damaged:
        remedy = "Restore those files, or delete those steps with nanochat checkpoints rm"
        raise UserError(f"{damaged} of {whole + damaged} checkpoints are damaged", remedy)
    say(f"all {whole} checkpoints are whole")


def delete(config: Rm) -> None:
    from nanochat.checkpoint.listing import scan
    from nanochat.checkpoint.removal import children, choose, freed, leftovers, remove

    if config.parts:
        if config.step:
            raise UserError("--parts and --step do not go together", "Leave one of them out")
        entries = leftovers(scan(config.stage or "", config.tag))
        if not entries:
            say("There is nothing that a killed writer left.")
            return
    else:
        if config.stage is None or not config.tag:
            raise UserError("rm was not told what to delete", "Give --stage and --tag, or --parts")
        if min(config.step, default=0) < 0:
            raise UserError(f"{min(config.step)} is no step", "Give --step 0 or more")
        entries = choose(config.stage, config.tag, config.step)
    everything = scan()
    for entry in entries:
        say(f"{entry.name}: {entry.path}, {file_size(entry.bytes)}, {entry.state}")
    for line in children(entries, everything):
        say(f"note: {line}")
    size = file_size(freed(entries))
    if others := [entry for entry in leftovers(everything) if entry not in entries]:
        left = file_size(sum(entry.bytes for entry in others))
        say(f"note: killed writers left {left} elsewhere; to remove that: nanochat checkpoints rm --parts")
    if not config.yes:
        if not sys.stdin.isatty():
            raise UserError("rm asks before it deletes, and there is no terminal", "Give --yes to delete at once")
        say(f"Delete these, which frees {size}? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("Nothing was deleted.")
            return
    remove(entries)
    say(f"Deleted; {size} are free again.")


ACTIONS = {"ls": (Ls, list_all), "verify": (Verify, verify), "rm": (Rm, delete)}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ACTIONS:
        config_type, run = ACTIONS[name]
        run_command(config_type, run, config_type.__doc__, sys.argv[2:], f"nanochat checkpoints {name}")  # type: ignore
    else:
        run_command(Config, lambda _: None, __doc__)


if __name__ == "__main__":
    main()
