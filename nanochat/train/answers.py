"""answers.jsonl, beside a run's metrics: what the model answered to the same questions at every evaluation.

A line is a JSON object: version, time, step, tokens, loss (smoothed, of the training), what was measured there (such as
val_bpb), question, kind (of the question), answer, expected ("" when nobody knows the right answer), right (true, false
or null). The lines of one evaluation are written at once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.console import require_version
from nanochat.paths import write_atomic

VERSION = 1
FILE = "answers.jsonl"


@dataclass(frozen=True)
class Answer:
    """right: None when nobody knows. expected: the right answer, or ""."""

    question: str
    kind: str
    answer: str
    right: bool | None = None
    expected: str = ""


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, a question's newest of each step, by step; [] when there is no file. UserError when a newer
    version wrote it."""
    if not path.is_file():
        return []
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue  # half a line, after a crash
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            continue
        require_version(row.get("version", VERSION), VERSION, f"a line of {path}")
        if isinstance(row.get("question"), str) and isinstance(row.get("answer"), str):
            found[row["step"], row["question"]] = row
    return sorted(found.values(), key=lambda row: row["step"])


def add_answers(path: Path, step: int, tokens: int, measured: Mapping[str, float], answers: Sequence[Answer]) -> None:
    """Append one evaluation's answers. measured: the loss and what else is known of the model at this step. OSError."""
    facts = {"version": VERSION, "time": round(time.time(), 3), "step": step, "tokens": tokens, **measured}
    rows = [
        {**facts, "question": a.question, "kind": a.kind, "answer": a.answer, "expected": a.expected, "right": a.right}
        for a in answers
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as f:
        f.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="backslashreplace"))


def keep_answers(path: Path, steps: Sequence[int]) -> None:
    """Remove the answers of all other steps, which are given again, and half a line. UserError."""
    if not path.is_file():
        return
    kept = [row for row in read_answers(path) if row["step"] in set(steps)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept).encode(errors="backslashreplace")
    if not kept:
        path.unlink()
    elif text != path.read_bytes():
        write_atomic(path, text)
