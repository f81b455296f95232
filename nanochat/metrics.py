"""metrics.jsonl, an append-only file per run: a line is a JSON object with version, time (of writing) and kind.

Each stage and tag has its own folder (`paths.model_runs_dir`), which is moved with the model when that is set aside.
Kinds, and what a training writes in them (readers do without whatever is missing, as from older versions):

settings: every flag, and the facts of the run: tag, model, params, steps, rates, machine (the device's name), dtype,
    ranks, host (memory, torch, commit ...; `train.host`). What it wrote before is of an older run.
resume: the run goes on after `step`: machine, dtype, ranks, host of now.
step: step, loss (nats per token), tokens (so far), lr (share of the peak), tok_per_s, waited (seconds for its data),
    seconds (of training so far), mfu (share of the devices' peak FLOP/s; not in rl), memory (bytes; `train.usage`);
    rl also: reward, uneven, kl, length, finished.
eval: step, tokens and what was measured, such as val_bpb; or an evaluation's result (`eval.results`).
save: step, paused (seconds that training stood still).
summary: seconds, steps, tokens, params, tok_per_s (median) and more, when the run has come to its end.
stage: of a speedrun: stage, seconds, status, tag, command; written when the stage has ended.
sample: prompt and text; of a graded answer also task and right.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanochat.console import UserError, is_main_rank, require_version
from nanochat.paths import model_runs_dir, write_atomic

VERSION = 1
FILE = "metrics.jsonl"


def training_file(stage: str, tag: str) -> Path:
    """The metrics of the training of a stage and tag."""
    return model_runs_dir(stage, tag) / FILE


def evaluation_file(command: str, stage: str, tag: str) -> Path:
    """The metrics of a command that evaluated a stage and tag."""
    return model_runs_dir(stage, tag) / command / FILE


class MetricsWriter:
    """Appends records to `path` (first rank only)."""

    def __init__(self, path: Path):
        self.path = path
        self._unwritten = b""
        if not is_main_rank():
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if _is_cut(path):  # by a crash: the next record gets a line of its own
                self._append("\n")
        except OSError as error:
            raise self._failed(error) from None

    def write(self, kind: str, **values: Any) -> None:
        if not is_main_rank():
            return
        record = {"version": VERSION, "time": round(time.time(), 3), "kind": kind, **values}
        try:
            self._append(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as error:
            raise self._failed(error) from None

    def _append(self, text: str) -> None:
        """What a full disk did not take is written by a later call."""
        self._unwritten += text.encode(errors="backslashreplace")  # names need not be UTF-8
        with open(self.path, "ab", buffering=0) as f:
            # In one call, so that lines of two processes do not mix.
            self._unwritten = self._unwritten[f.write(self._unwritten) or 0 :]
        if self._unwritten:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _failed(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self.path}: {error.strerror}", "Free some disk space and run again")


def _is_cut(path: Path) -> bool:
    """Whether a file's last line is incomplete."""
    if not path.exists():
        return False
    with open(path, "rb") as f:
        if not f.seek(0, os.SEEK_END):
            return False
        f.seek(-1, os.SEEK_END)
        return f.read() != b"\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a file, oldest first, each step once; [] when there is no file. See `newest`."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # splitlines would split texts, too
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # also for a number of thousands of digits
            continue  # a crash in the middle of a write leaves half a line; the next run goes on below it
        if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
            continue
        require_version(record.get("version", VERSION), VERSION, f"a line of {path}")
        records.append(record)
    return newest(records)


def newest(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records since the last `settings`, without those of steps repeated after a resume, and with only the last
    `eval` of each step."""
    kept = []
    first = math.inf  # earliest step in the later records
    evaluated = set()  # steps
    for record in reversed(list(records)):
        step, kind = record.get("step"), record["kind"]
        if isinstance(step, int | float):
            if step >= first or (kind == "eval" and step in evaluated):
                continue
            if kind == "step":
                first = step
            elif kind == "eval":
                evaluated.add(step)
        kept.append(record)
        if kind == "settings":
            break
    return kept[::-1]


def evaluations(path: Path) -> dict[int, dict[str, float]]:
    """What a training measured at which step, in the order of its metrics."""
    beside = {"version", "time", "kind", "step", "tokens"}
    return {
        row["step"]: {k: float(v) for k, v in row.items() if k not in beside and isinstance(v, int | float)}
        for row in read_metrics(path)
        if row["kind"] == "eval" and isinstance(row.get("step"), int)
    }


def rewind(path: Path, step: int) -> None:
    """Remove what a run recorded beyond `step`, from which it goes on, so that no step is recorded twice (first rank
    only). It also deletes what a killed writer left beside the file."""
    if not is_main_rank():
        return
    for left in path.parent.glob(f".{path.name}.*.part"):
        left.unlink(missing_ok=True)
    if not path.exists():
        return
    rows = read_metrics(path)
    kept = [row for row in rows if row.get("step", 0) <= step and row["kind"] != "summary"]
    if kept != rows or _is_cut(path):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        write_atomic(path, "".join(lines).encode(errors="backslashreplace"))


def last(records: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The newest record of a kind."""
    return next((r for r in reversed(records) if r["kind"] == kind), None)
