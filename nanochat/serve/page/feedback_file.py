"""feedback.jsonl in the base dir: answers that were marked or corrected on the page, one conversation a line.

`chat_sft --data` and `finetune --data` take the file. Two servers may write it at once. Lines that somebody else wrote,
or a later version, stay as they are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import lock
from nanochat.console import UserError
from nanochat.corpus import marked_bad
from nanochat.paths import base_dir, write_atomic
from nanochat.reading import MB, open_regular

VERSION = 1
MOST = 64 * MB
BOM = b"\xef\xbb\xbf"
PATIENCE = 10.0  # seconds that another server may take to write
# Of a line of this version; whatever else it holds is kept when its answer is marked anew.
FIELDS = ("version", "id", "model", "messages", "rating", "given", "time")
_here = threading.Lock()  # of this process's threads; those of others wait for the file's lock


@dataclass(frozen=True)
class Counts:
    """good, bad: marked so and not corrected."""

    good: int = 0
    bad: int = 0
    corrected: int = 0


def feedback_path() -> Path:
    return base_dir() / "feedback.jsonl"


def counts() -> Counts:
    return _counts(_lines(feedback_path()))


def mark(id: str, line: Mapping[str, Any] | None) -> Counts:
    """Put a line in place of an earlier one with this id, or at the end; None: remove it. All counts then."""
    path = feedback_path()
    with _here, lock.hold(path.with_name(".feedback.lock"), "another server writes the feedback", PATIENCE):
        before = _lines(path)
        if not _is_json(next((row for row in before if row.strip()), b"0").removeprefix(BOM)):
            raise UserError(f"{path} has other things than one JSON value a line", "Move the file away")
        after: list[bytes] = []
        place, kept = None, {}
        for row in before:
            # Nearly all lines are others': these need not be parsed.
            found = _ours(row) if id.encode() in row else None
            if found is None or found.get("id") != id:
                after.append(row)
                continue
            place = len(after) if place is None else place
            kept = {name: value for name, value in found.items() if name not in FIELDS}
        if line is not None:
            text = json.dumps({"version": VERSION, "id": id, **line, **kept}, ensure_ascii=False)
            new = text.encode(errors="backslashreplace")  # half a character, in what is kept, stays JSON
            after.insert(len(after) if place is None else place, new)
        if after != before:
            _write(path, after)
        return _counts(after)


def _write(path: Path, lines: list[bytes]) -> None:
    data = b"".join(text + b"\n" for text in lines)
    if len(data) > MOST:
        raise UserError(f"{path} would have more than {MOST // MB} MB", "Move the file away: a new one is begun")
    target = path.resolve()  # it may be a link into another folder
    # What people wrote to their model is for nobody else, unless they opened the file to others.
    mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
    write_atomic(target, data, mode)


def _lines(path: Path) -> list[bytes]:
    try:
        with open_regular(path) as file:
            data = file.read(MOST + 1)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}", "Move it away") from None
    if len(data) > MOST:
        raise UserError(f"{path} has more than {MOST // MB} MB", "Move the file away: a new one is begun")
    return data.removesuffix(b"\n").split(b"\n") if data else []


def _ours(text: bytes) -> dict[str, Any] | None:
    """A line that this version wrote."""
    try:
        found = json.loads(text.decode())  # bytes may also be UTF-16
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("version") == VERSION else None


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode())
    except (ValueError, RecursionError):
        return False
    return True


def _counts(lines: Iterable[bytes]) -> Counts:
    good = bad = corrected = 0
    for text in lines:
        found = _ours(text)
        if found is None:
            continue
        corrected += "given" in found
        bad += marked_bad(found)
        good += found.get("rating") == "good" and "given" not in found
    return Counts(good, bad, corrected)
