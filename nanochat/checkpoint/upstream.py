"""The files of upstream's checkpoints, which lie in one folder for all steps: their names, and their JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.reading import MB, read_json

NAMES = re.compile(r"(model|optim)_(\d{1,9})(?:_rank(\d{1,5}))?\.pt|(meta)_(\d{1,9})\.json", re.ASCII)
LARGEST_META = 16 * MB


@dataclass
class Files:
    """Names of one step's files. ranks: the optimiser's, by rank."""

    model: str = ""
    meta: str = ""
    ranks: dict[int, str] = field(default_factory=dict)
    twice: bool = False  # whether a rank has two files


def steps_among(names: Iterable[str]) -> dict[int, Files]:
    """Step -> files, ascending, of the steps that have weights."""
    found: dict[int, Files] = {}
    for name in sorted(names):
        if not (m := NAMES.fullmatch(name)):
            continue
        files = found.setdefault(int(m[2] or m[5]), Files())
        if m[1] == "optim":
            files.twice |= int(m[3] or 0) in files.ranks
            files.ranks[int(m[3] or 0)] = name
        elif m[1] == "model" and not m[3]:
            files.model = name
        elif m[4]:
            files.meta = name
    return {step: found[step] for step in sorted(found) if found[step].model}


def read_meta(path: Path) -> dict[str, Any]:
    """The object in meta_NNNNNN.json. It may hold NaN and Infinity, which Python writes when nothing was measured."""
    try:
        values = read_json(path, LARGEST_META, finite=False)
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}", "Take the file from its source again") from None
    return values
