"""Which trainings there are to watch, and whether one is at work."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nanochat import checkpoint, lock
from nanochat.console import UserError
from nanochat.metrics import FILE
from nanochat.paths import base_dir, runs_dir
from nanochat.report.runs import SET_ASIDE, TRAINING
from nanochat.report.values import line

SHOWN = 20  # runs that an error names


def run_names() -> list[str]:
    """Folders of trainings that have metrics, the one written last first; those that were set aside come after."""
    found: list[tuple[bool, float, str]] = []
    for path in runs_dir().glob(f"*/{FILE}"):
        name = path.parent.name
        stage, dash, _ = name.partition("-")
        trains = (dash and stage in TRAINING) or name in TRAINING.values()  # the second: of an older version
        if trains and name.isprintable():
            with suppress(OSError):  # set aside since it was listed
                found.append((SET_ASIDE not in name, path.stat().st_mtime, name))
    return [name for _, _, name in sorted(found, reverse=True)]


def choose_run(asked: str) -> str:
    """The run of this name; of a tag such as d4, the newest; of "", the newest of all. UserError when there is none."""
    have = run_names()
    if asked in have:
        return asked
    fit = [name for name in have if not asked or name.partition("-")[2] == asked]
    if fit:
        return fit[0]
    if not have:
        raise UserError(f"there is no training to watch in {runs_dir()}", "Start one, such as nanochat speedrun")
    raise UserError(f"there is no run {line(asked)!r}", f"Choose {_choices(asked, have)}")


def _choices(asked: str, have: Sequence[str]) -> str:
    near = difflib.get_close_matches(asked, have, 1)
    names = [*near, *(name for name in have if name not in near)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"one of: {', '.join(map(line, names[:SHOWN]))}{more}"


def metrics_file(name: str) -> Path:
    """name: one of `run_names`."""
    return runs_dir(name) / FILE


def is_at_work(stage: str, tag: str) -> bool:
    """Whether a training of this stage and tag is running on this machine (or one that shares its disk)."""
    with suppress(UserError, OSError):
        return lock.is_held(checkpoint.lock_file(stage, tag))
    return False


def checkpoint_bytes(stage: str, tag: str) -> int:
    """Size of the newest checkpoint; 0 when there is none."""
    with suppress(UserError, OSError):
        if steps := checkpoint.steps(stage, tag):
            return sum(file.stat().st_size for file in steps[max(steps)].glob("*"))
    return 0


def free_bytes() -> int:
    """Free space where the runs are kept."""
    import shutil

    return shutil.disk_usage(base_dir()).free
