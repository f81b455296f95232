"""One append-only metrics.jsonl per run: a line is a JSON object with version, time and kind.

Kinds: settings (flat dict), step, eval, summary, stage, sample.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from nanochat.console import UserError, is_main_rank

VERSION = 1


class MetricsWriter:
    """Appends records to `path` (first rank only). With `fresh`, an older run's file is moved aside first."""

    def __init__(self, path: Path, fresh: bool = False):
        self.path = path
        if not is_main_rank():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh and path.exists():
            path.replace(path.with_suffix(".previous.jsonl"))
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            with open(path, "a") as f:  # half a line, from a crash: the next record gets a line of its own
                f.write("\n")

    def write(self, kind: str, **values: Any) -> None:
        if not is_main_rank():
            return
        record = {"version": VERSION, "time": round(time.time(), 3), "kind": kind, **values}
        try:
            with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as f:  # names may be no UTF-8
                f.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}", "Free some disk space and run again"
            ) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records, oldest first; a last line cut off by a crash is left out. [] when there is no file."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").split("\n"):  # not splitlines: texts hold other ends of lines
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a crash in the middle of a write leaves half a line; the next run goes on below it
    return records


def last(records: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The newest record of a kind."""
    return next((r for r in reversed(records) if r["kind"] == kind), None)
