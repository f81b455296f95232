"""The checkpoints of this machine, as the page names them: stage/tag/step."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException

from nanochat import checkpoint
from nanochat.checkpoint.folder import TAG
from nanochat.console import UserError
from nanochat.paths import STAGES

ID = re.compile(rf"({'|'.join(STAGES)})/({TAG.pattern})/(0|[1-9][0-9]{{0,11}})")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Entry:
    """A checkpoint. The server's own model need not be on the disk (any more): then `folder`, `bytes` (of its weights)
    and `written` (seconds since 1970) are None. hash: names the weights, since a step may be trained anew."""

    stage: str
    tag: str
    step: int
    folder: Path | None = None
    hash: str = ""
    bytes: int | None = None
    written: float | None = None

    @property
    def id(self) -> str:
        return f"{self.stage}/{self.tag}/{self.step}"

    @property
    def chat(self) -> bool:
        """Whether it has learnt to answer."""
        return self.stage != "base"


def listed() -> list[Entry]:
    """All whole checkpoints, by the sizes of their files; what cannot be read is left out."""
    return [entry for stage in STAGES for entry in _of(stage)]


def _of(stage: str) -> Iterator[Entry]:
    try:
        tags = sorted(checkpoint.tags(stage))
    except UserError:
        return
    for tag in tags:
        try:
            steps = checkpoint.steps(stage, tag)
        except UserError:
            continue
        for step, folder in steps.items():
            with contextlib.suppress(HTTPException):
                yield _entry(stage, tag, step, folder)


def find(id: str) -> Entry:
    """HTTPException, 404, where there is no such checkpoint, or it is damaged."""
    named = ID.fullmatch(id)
    try:
        folder = checkpoint.steps(named[1], named[2]).get(int(named[3])) if named else None
    except UserError:
        folder = None
    if not named or folder is None:
        raise HTTPException(404, f"there is no checkpoint {id!a:.80} on this machine (any more)")
    return _entry(named[1], named[2], int(named[3]), folder)


def _entry(stage: str, tag: str, step: int, folder: Path) -> Entry:
    try:
        manifest = checkpoint.verify(folder, hashes=False)
        written = os.stat(folder / "manifest.json").st_mtime
    except (UserError, OSError):
        raise HTTPException(404, f"{stage}/{tag}/{step} is damaged: `nanochat checkpoints verify` says where") from None
    size = manifest.files[WEIGHTS]["size"]
    return Entry(stage, tag, step, folder, manifest.hash, size, written)
