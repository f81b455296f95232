"""A custom mixture, from a small TOML file (docs/tasks.md)."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.corpus import read_text
from nanochat.tasks.customjson import CustomJSON
from nanochat.tasks.mixture import SEEDS, TEST_SIZE, Mixture
from nanochat.tasks.table import TABLE, names, open_set
from nanochat.tasks.task import Conversations, Split

GENERATED = tuple(name for name, known in TABLE.items() if known.generated)
TEST_TOTAL = 1000  # validation conversations of a weighted mixture
MOST = 10_000_000
SHAPE = 'Write [[set]] with task = "NAME" or file = "PATH", then epochs, weight or size (docs/tasks.md)'


@dataclass(frozen=True)
class Entry:
    """One set of the file; 0 or "" for what the file leaves out."""

    task: str
    file: str
    held_out: str
    epochs: float
    weight: float
    size: int


def read_mixture(
    path: str | Path, stage: str, split: Split = "train", world_seed: int | None = None, seed: int = 0
) -> Mixture:
    """The mixture that the file describes.

    world_seed: of the tiny world; None: the one prepared last. seed: of the order. UserError for an invalid file
    or missing conversations: a set that the file names is never left out.
    """
    path = Path(path)
    if stage not in SEEDS:
        raise UserError(f"there is no mixture for the stage {stage!r}", "Use mid or sft")
    entries, total = _entries(path)
    sets: list[tuple[Conversations, float]] = []
    for entry in entries:
        share = entry.weight / sum(e.weight for e in entries) if total else 0.0
        sets.append(_opened(entry, share * total, share, path.parent, stage, split, world_seed))
    return Mixture(sets, seed)


def _entries(path: Path) -> tuple[list[Entry], int]:
    """The sets, and the total size that their weights share (0: no weights)."""
    try:
        data = tomllib.loads(read_text(path))
    except UserError as error:
        raise UserError(f"cannot read the mixture {path}: {error.problem}", error.remedy) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML ({error})", SHAPE) from None
    tables = data.get("set")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{path} names no sets", SHAPE)
    _only(data, {"set", "size"}, str(path))
    total = int(_number(data, "size", str(path), MOST, whole=True))
    entries = [_entry(table, f"{path}, set {number}") for number, table in enumerate(tables, 1)]
    weighted = [entry.weight > 0 for entry in entries]
    if any(weighted) and not (all(weighted) and total):
        raise UserError(
            f"{path} has weights, but not all they need", "Give every set a weight, and a total size above the sets"
        )
    if total and not any(weighted):
        raise UserError(f"{path} has a total size, but no weights", "Give every set a weight, or take the size out")
    return entries, total


def _entry(table: dict[str, Any], where: str) -> Entry:
    _only(table, {"task", "file", "held_out", "epochs", "weight", "size"}, where)
    task, file, held_out = (table.get(key, "") for key in ("task", "file", "held_out"))
    if not isinstance(task, str) or not isinstance(file, str) or bool(task) == bool(file):
        raise UserError(f"{where} must have either a task or a file", SHAPE)
    if not isinstance(held_out, str) or (held_out and task):
        raise UserError(f"{where}: held_out is the path of a file to validate on, beside file", SHAPE)
    if task and task not in names("train"):
        problem = f"{task} is not for training" if task in TABLE else f"unknown task {task!r}"
        raise UserError(f"{where}: {problem}", f"Choose among {', '.join(names('train'))}")
    entry = Entry(
        task,
        file,
        held_out,
        _number(table, "epochs", where, 1000),
        _number(table, "weight", where, MOST),
        int(_number(table, "size", where, MOST, whole=True)),
    )
    if entry.weight and (entry.epochs or entry.size):
        raise UserError(f"{where} has a weight and also epochs or a size", "Take the others out")
    if entry.size and task not in GENERATED:
        raise UserError(f"{where} has a size", f"Only {', '.join(GENERATED)} can have a size; use epochs")
    return entry


def _opened(
    entry: Entry, wanted: float, share: float, folder: Path, stage: str, split: Split, world_seed: int | None
) -> tuple[Conversations, float]:
    """The conversations and their epochs. wanted: their number, if it comes from weights."""
    if entry.task in GENERATED:
        size = max(1, round(wanted)) if wanted else entry.size or None
        items = open_set(entry.task, split, world_seed, size if split == "train" else TEST_SIZE, SEEDS[stage])
        return items, (entry.epochs or 1.0) if split == "train" else 1.0
    file = entry.held_out if split == "test" and entry.held_out else entry.file
    items = open_set(entry.task, split) if entry.task else CustomJSON(folder / os.path.expanduser(file))
    if not len(items):
        raise UserError(f"{items.name} has no conversation", "Take it out of the mixture")
    if split == "test":
        wanted = share * TEST_TOTAL
    epochs = wanted / len(items) if wanted else entry.epochs or 1.0
    epochs = max(epochs, 1 / len(items))  # at least one conversation of every set
    return items, epochs if split == "train" else min(1.0, epochs)  # validation sees nothing twice


def _number(table: dict[str, Any], key: str, where: str, most: int, whole: bool = False) -> float:
    """A number above 0, or 0 when the key is not there."""
    if key not in table:
        return 0
    value = table[key]
    number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= most:
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{where}: {key} is {value!r}", f"Give {kind} above 0, at most {most:,}")
    return float(value)


def _only(table: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}", SHAPE)
