"""What lies in the checkpoint folders: every step with its size, age and state, and what killed writers left there.

Anybody's files may be there as well: they are told of, never touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat import lock
from nanochat.checkpoint.folder import SET_ASIDE, TAG, faults, lock_file, read_manifest
from nanochat.console import UserError
from nanochat.metrics import evaluations, training_file
from nanochat.paths import STAGES, checkpoints_dir
from nanochat.reading import MB, fits, read_json, shown

STEP = re.compile(r"\.?step_([0-9]{6,})(\.old)?(\.damaged-[0-9]+)?")
# Exactly what writers make: a new step and its replaced one, the file of another rank, a step that is being deleted.
LEFT = re.compile(r"\.step_([0-9]{6,})(\.old|(\.[0-9]{5})?\.part|(\.old)?(\.damaged-[0-9]+)?\.gone)")
LEFT_BESIDE = re.compile(rf"\.({TAG.pattern})\.(?:arriving|pulling)|\.\.({TAG.pattern})\.arriving\.(?:part|old)")
WAITING = re.compile(rf"\.({TAG.pattern})\.waiting")
FORK = re.compile(rf"\.({TAG.pattern})\.previous-[0-9]+\.fork")
LOCK = re.compile(r"\..*\.lock")
STATE = "train_state.json"
LONGEST_STATE = 8 * MB


@dataclass(frozen=True)
class Entry:
    """A step's folder, or a part of one. step: -1 when unknown. written: in seconds since 1970. why: it is damaged.

    state: "whole" and "damaged" (by the sizes of its files), "set aside" (whole, of an earlier run with the same tag),
    "being written" (by a training at work), "left over" (by a killed writer).
    measured: by the training, at this step or last before it. parent, parent_hash: the checkpoint it continued.
    """

    stage: str
    tag: str
    step: int
    path: Path
    bytes: int
    written: float
    state: str
    why: str = ""
    measured: dict[str, float] = field(default_factory=dict)
    parent: str = ""
    parent_hash: str = ""

    @property
    def is_step(self) -> bool:
        return self.step >= 0 and self.state in ("whole", "damaged", "set aside")

    @property
    def name(self) -> str:
        return f"{self.stage} {self.tag}" + (f" step {self.step:,}" if self.step >= 0 else "")


@dataclass(frozen=True)
class Listing:
    """entries: by stage, tag and step. notes: a line about everything else that lies there or cannot be read."""

    entries: list[Entry]
    notes: list[str]


def scan(stage: str = "", tag: str = "") -> Listing:
    """All that lies in the folders of a stage and a tag ("": of all). No file is hashed."""
    entries: list[Entry] = []
    notes: list[str] = []
    for each in [stage] if stage else STAGES:
        home = checkpoints_dir(each)
        for name in _names(home, notes):
            if beside := LEFT_BESIDE.fullmatch(name) or FORK.fullmatch(name):
                owner = next(filter(None, beside.groups()))
                if tag in ("", owner):
                    entries += _part(each, owner, -1, home / name)
            elif TAG.fullmatch(name) and os.path.isdir(home / name):
                if tag in ("", name):
                    entries += _tag(each, name, home / name, notes)
            elif found := WAITING.fullmatch(name):
                notes.append(f"{home / name} holds pulled weights of {found[1]} that wait for their tokenizer")
            elif not tag and not LOCK.fullmatch(name):
                notes.append(f"{home / printable(name)} is no model's folder")
    order = list(STAGES)
    return Listing(sorted(entries, key=lambda e: (order.index(e.stage), e.tag, e.step, e.path.name)), notes)


def _tag(stage: str, tag: str, root: Path, notes: list[str]) -> Iterator[Entry]:
    names, measured = _names(root, notes), _evaluations(stage, tag)
    other = []
    for name in names:
        found = STEP.fullmatch(name)
        step = int(found[1]) if found else -1
        whole = f"step_{step:06d}"
        kept = name == whole or (name == f".{whole}.old" and whole not in names)
        if found and os.path.isdir(root / name) and (kept or (found[3] and name.startswith(f".{whole}."))):
            yield from _step(stage, tag, step, root / name, rejected=not kept, val=measured.get(step))
        elif (left := LEFT.fullmatch(name)) and name.startswith(f".step_{int(left[1]):06d}."):
            yield from _part(stage, tag, int(left[1]), root / name)
        else:
            other.append(name)
    if other:
        more = f" and {len(other) - 1:,} more things" if len(other) > 1 else ""
        notes.append(f"{root} also holds {printable(min(other))}{more}, no checkpoint")


def _step(
    stage: str, tag: str, step: int, folder: Path, rejected: bool, val: dict[str, float] | None
) -> Iterator[Entry]:
    """val: what the metrics say of this step."""
    values: Any = {}
    listed, why = _damage(folder)
    try:
        if STATE in listed:  # a checkpoint from elsewhere has none
            values = read_json(folder / STATE, LONGEST_STATE, finite=False)
        if not isinstance(values, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError) as error:
        values, why = {}, why or f"{STATE} cannot be read: {error}"
    # Measured after the step was saved, so it stands in the metrics; older versions saved the last value, too.
    found, settings = val or values.get("val"), values.get("settings")
    measured = {k: v for k, v in found.items() if fits(v, float)} if isinstance(found, dict) else {}
    facts = {"measured": measured, "parent": str(values.get("parent") or "")}
    facts["parent_hash"] = str((settings if isinstance(settings, dict) else {}).get("parent") or "")
    if rejected:
        why = f"a training found it damaged and put it aside as {folder.name}"
    state = "damaged" if why else "set aside" if SET_ASIDE.search(tag) else "whole"
    yield from _entry(stage, tag, step, folder, state, why=printable(why, 200), **facts)


def _evaluations(stage: str, tag: str) -> dict[int, dict[str, float]]:
    file = training_file(stage, tag)
    try:
        return evaluations(file) if file.is_file() else {}  # not a pipe
    except (OSError, UserError, ValueError, OverflowError):  # of a newer version, or a number of 5,000 digits
        return {}


def _damage(folder: Path) -> tuple[Collection[str], str]:
    """The files that its manifest lists, and why a checkpoint is not whole, by their sizes; "" if it is."""
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        return (), error.problem.replace(f"{folder} is not a whole checkpoint: ", "").replace(f"{folder} ", "")
    found = list(faults(folder, manifest, hashes=False))
    more = f" (and {len(found) - 1:,} more files)" if len(found) > 1 else ""
    return manifest.files, f"{found[0][0]} {found[0][1]}{more}" if found else ""


def _part(stage: str, tag: str, step: int, path: Path) -> Iterator[Entry]:
    if at_work(stage, tag):
        yield from _entry(stage, tag, step, path, "being written")
    elif FORK.fullmatch(path.name) and sum(bool(STEP.fullmatch(name)) for name in _names(path, [])) > 1:
        # The older run itself, before its last renaming: perhaps its only copy.
        yield from _entry(stage, tag, step, path, "set aside", why=f"the next training of {tag} gives it its name")
    else:
        yield from _entry(stage, tag, step, path, "left over")


def _entry(stage: str, tag: str, step: int, path: Path, state: str, **facts: Any) -> Iterator[Entry]:
    try:
        written = os.lstat(path).st_mtime
    except OSError:
        return  # deleted, or renamed, since it was listed
    size = sum(size for size, _, _ in inodes([path]).values())
    yield Entry(stage, tag, step, path, size, written, state, **facts)


def at_work(stage: str, tag: str) -> bool:
    """Whether a training of this stage and tag is at work. True also when that cannot be found out."""
    try:
        return lock.is_held(lock_file(stage, tag))
    except (OSError, UserError):
        return True


def inodes(paths: Iterable[Path]) -> dict[tuple[int, int], tuple[int, int, int]]:
    """(device, number) -> (bytes, all its names, its names here) of every file at and below the paths: a file may have
    several names, also in another checkpoint."""
    found: dict[tuple[int, int], tuple[int, int, int]] = {}
    for path in paths:
        below = (os.path.join(place, name) for place, _, names in os.walk(path) for name in names)
        for file in below if os.path.isdir(path) else [path]:
            try:
                facts = os.lstat(file)
            except OSError:
                continue
            at = facts.st_dev, facts.st_ino
            found[at] = facts.st_size, facts.st_nlink, found.get(at, (0, 0, 0))[2] + 1
    return found


def _names(folder: Path, notes: list[str]) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        notes.append(f"{folder} cannot be read: {error.strerror}")
        return []


def printable(text: str, width: int = 60) -> str:
    """A stranger's text without quotes, as one short line of printable characters."""
    return shown(text, width)[1:].removesuffix("'").removesuffix('"')
