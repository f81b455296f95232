"""Deleting checkpoints, and what killed writers left: never while a training of the tag is at work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from nanochat import lock
from nanochat.checkpoint.folder import lock_file, read_manifest
from nanochat.checkpoint.listing import Entry, Listing, at_work, inodes, scan
from nanochat.console import UserError

PATIENCE = 1.0  # seconds to wait for a lock, which somebody may have just looked at


def choose(stage: str, tag: str, steps: Sequence[int] = ()) -> list[Entry]:
    """What to delete: all of a tag, or some of its steps with what killed writers left of these. UserError when a
    training of it is at work, or a step is not there."""
    found = [entry for entry in scan(stage, tag).entries if entry.is_step or entry.state != "set aside"]
    if not found:
        raise UserError(f"there is no {stage} checkpoint with the tag {tag!r}", "See: nanochat checkpoints ls")
    if at_work(stage, tag):
        raise UserError(_busy(stage, tag), "Wait for it, or interrupt it first")
    _require_own(stage, tag)
    if missing := sorted(set(steps) - {entry.step for entry in found}):
        have = ", ".join(str(entry.step) for entry in found if entry.step >= 0)
        raise UserError(f"{stage} {tag} has no step {missing[0]}", f"Choose from: {have}")
    return [entry for entry in found if not steps or entry.step in steps]


def leftovers(listing: Listing) -> list[Entry]:
    """What killed writers left, but not in a tag's folder that is a link."""
    return [e for e in listing.entries if e.state == "left over" and not _root(e.stage, e.tag).is_symlink()]


def _root(stage: str, tag: str) -> Path:
    return lock_file(stage, tag).with_name(tag)


def _require_own(stage: str, tag: str) -> None:
    """UserError for a link: who trains in the folder that it leads to holds another lock."""
    if (root := _root(stage, tag)).is_symlink():
        raise UserError(f"{root} is a link to another folder", "Delete in that folder, or remove the link")


def freed(entries: Iterable[Entry]) -> int:
    """Bytes that deleting these frees: a file that another checkpoint has, too, stays."""
    real = [entry.path for entry in entries if not entry.path.is_symlink()]
    return sum(size for size, names, here in inodes(real).values() if here >= names)


def children(entries: Iterable[Entry], listing: Listing) -> list[str]:
    """A line for every checkpoint that stays and was trained from one of these."""
    entries = list(entries)
    hashes = {entry.path: _hash(entry.path) for entry in entries if entry.is_step}
    going = {entry.path for entry in entries}
    lines = []
    for child in listing.entries:
        if child.path in going or not child.parent:
            continue
        for path, weights in hashes.items():
            same_place = _real(child.parent) == os.path.realpath(path)
            if child.parent_hash == weights if child.parent_hash and weights else same_place:
                lines.append(f"{child.name} was trained from {path}, which it names as its parent")
                break
    return lines


def _real(path: str) -> str:
    """A stranger's path without links; "" when it cannot be one."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # also UnicodeError
        return ""


def _hash(folder: Path) -> str:
    try:
        return read_manifest(folder).hash
    except UserError:
        return ""


def remove(entries: Iterable[Entry]) -> None:
    """Delete these, and the folders of tags that are then empty. UserError, before anything is deleted, when one is
    no longer what it was; and when a training is at work."""
    by_tag: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        by_tag.setdefault((entry.stage, entry.tag), []).append(entry)
    for (stage, tag), here in by_tag.items():
        with lock.hold(lock_file(stage, tag), _busy(stage, tag), PATIENCE):
            _require_own(stage, tag)
            now = {(e.path, e.bytes, e.written, e.is_step) for e in scan(stage, tag).entries}
            if any((e.path, e.bytes, e.written, e.is_step) not in now for e in here):
                raise UserError(f"the checkpoints of {stage} {tag} have just changed", "Run the command again")
            # Parts first: an old folder beside a step would pass for the step when that is gone.
            for entry in sorted(here, key=lambda e: (e.is_step, e.step)):
                _delete(entry)
            root = _root(stage, tag)
            if root.is_dir() and not os.listdir(root):
                root.rmdir()


def _delete(entry: Entry) -> None:
    path = entry.path
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink()
            return
        if entry.is_step:
            # Renamed, then deleted: after a kill in between it is no checkpoint, but a left-over part.
            gone = path.with_name(f".{path.name.lstrip('.')}.gone")
            if gone.exists():
                shutil.rmtree(gone)
            path = path.rename(gone)
        shutil.rmtree(path)
    except OSError as error:
        problem = f"cannot delete {error.filename or path}: {error.strerror or error}"
        raise UserError(problem, "Change the permissions of its folder") from None


def _busy(stage: str, tag: str) -> str:
    return f"a training of {stage} {tag} is at work"
