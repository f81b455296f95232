"""What belongs to a run in the base dir: its checkpoints, and the small files beside them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import checkpoint
from nanochat.checkpoint import Manifest
from nanochat.checkpoint.folder import TAG
from nanochat.console import UserError
from nanochat.corpus import corpus_name
from nanochat.metrics import training_file
from nanochat.paths import STAGES, base_dir, is_inside
from nanochat.reading import MB, read_json

MANIFEST = "manifest.json"
LOG, LOG_RUNS = "speedrun.json", "runs/speedrun"
TINYWORLD = "tinyworld"
OF_A_MODEL = re.compile(rf"runs/({'|'.join(STAGES)})-.*")


@dataclass(frozen=True)
class Unit:
    """A model. own: it is being trained, so all its steps are kept; of one that it continues, only the newest."""

    stage: str
    tag: str
    own: bool = True

    @property
    def name(self) -> str:
        return f"{self.stage} {self.tag}"

    @property
    def key(self) -> str:
        return f"{self.stage}/{self.tag}"

    @property
    def folder(self) -> str:
        return f"{STAGES[self.stage]}/{self.tag}"

    @property
    def runs(self) -> str:
        return f"runs/{self.stage}-{self.tag}"

    def step_folder(self, step: int) -> str:
        return f"{self.folder}/step_{step:06d}"


@dataclass(frozen=True)
class Step:
    """A whole checkpoint. mark: the SHA-256 of its manifest, which names all its bytes."""

    number: int
    folder: Path
    manifest: Manifest
    mark: str
    written: float


def whole_step(number: int, folder: Path) -> Step | None:
    """None for a step that is not whole, or no longer there."""
    try:
        written = folder.stat().st_mtime
        mark = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
        manifest = checkpoint.verify(folder, hashes=False)
    except (OSError, UserError):
        return None
    return Step(number, folder, manifest, mark, written)


def run_id(stage: str, tag: str) -> str:
    """What tells a run from others of its tag: when it began, by its metrics. "" when they do not say."""
    began = ""
    with contextlib.suppress(OSError), open(training_file(stage, tag), encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if '"settings"' in line:
                with contextlib.suppress(ValueError, RecursionError):
                    row = json.loads(line)
                    if isinstance(row, dict) and row.get("kind") == "settings":
                        began = f"{row.get('time')} {row.get('seed')} {row.get('machine')}"
    return hashlib.sha256(f"{stage} {tag} {began}".encode()).hexdigest()[:16] if began else ""


def small_files(units: list[Unit], corpus: str, speedrun: bool) -> Iterator[tuple[str, Unit | None]]:
    """The path of every small file to back up, and the unit whose it is. corpus: what the run reads, "" for none."""
    yield from ((path, None) for path in _below("tokenizer"))
    for unit in units:
        yield from ((path, unit) for path in _below(unit.runs))
    yield from ((path, None) for path in _below("report"))
    for path in _below("runs"):  # of the tokenizer, say; those of other models are not this run's
        if not OF_A_MODEL.fullmatch(path) and (speedrun or not path.startswith(f"{LOG_RUNS}/")):
            yield path, None
    if speedrun:
        yield from ((path, None) for path in _below(LOG))
    if corpus and is_inside(corpus) and "/" not in corpus:
        # Of text that is downloaded or imported only the description goes: the same text can be had again by it.
        whole = corpus == TINYWORLD
        yield from ((path, None) for path in _below(f"data/{corpus}") if whole or path.endswith("/meta.json"))


def _below(top: str) -> Iterator[str]:
    """Regular files at and below a path of the base dir, but for hidden ones."""
    base = base_dir()
    if os.path.isfile(base / top):
        yield top
    for place, folders, names in os.walk(base / top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(place, name)
            with contextlib.suppress(OSError):
                if not name.startswith(".") and stat.S_ISREG(os.lstat(path).st_mode):
                    yield Path(path).relative_to(base).as_posix()


def parent_of(folder: Path) -> Unit | None:
    """The model that a checkpoint continues, when it is in this base dir."""
    parent = _state(folder).get("parent")
    return unit_at(Path(parent)) if parent and isinstance(parent, str) else None


def corpus_of(unit: Unit) -> str:
    """The corpus that a base model's newest checkpoint was trained on; "" when none is known."""
    steps = list(checkpoint.steps(unit.stage, unit.tag).values()) if unit.stage == "base" else []
    name = _state(steps[-1]).get("dataset") if steps else ""
    return corpus_name(name) if isinstance(name, str) else ""


def _state(folder: Path) -> dict[str, Any]:
    try:
        values = read_json(folder / "train_state.json", 8 * MB, finite=False)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def unit_at(step_folder: Path) -> Unit | None:
    """The unit of a step's folder, as a model that is continued; None when it is none of this base dir's."""
    stages = {folder: stage for stage, folder in STAGES.items()}
    stage = stages.get(step_folder.parent.parent.name)
    tag = step_folder.parent.name
    if not stage or not TAG.fullmatch(tag) or not (base_dir() / STAGES[stage] / tag).is_dir():
        return None
    return Unit(stage, tag, own=False)
