"""What an evaluation leaves behind: a JSON file, and the same record in the run's metrics for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat import checkpoint
from nanochat.console import UserError, duration, is_main_rank, say
from nanochat.metrics import MetricsWriter
from nanochat.paths import runs_dir, write_json

VERSION = 1


def wilson(passed: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% Wilson score interval of a share; (0, 1) when nothing was tried."""
    if n == 0:
        return 0.0, 1.0
    p, spread = passed / n, z * z / n
    middle = (p + spread / 2) / (1 + spread)
    half = z * math.sqrt(p * (1 - p) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Score:
    """A share of right answers out of `n`; `baseline` is what always giving the commonest answer scores."""

    passed: int
    n: int
    baseline: float | None = None

    @property
    def accuracy(self) -> float:
        return self.passed / self.n if self.n else 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        return wilson(self.passed, self.n)

    def to_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = {"accuracy": self.accuracy, "n": self.n, "ci95": list(self.ci95)}
        return record if self.baseline is None else {**record, "baseline": self.baseline}


@dataclass(frozen=True)
class TaskResult:
    """A task's score, its parts by category, and (accuracy - random) / (1 - random) where random is known."""

    score: Score
    by_category: Mapping[str, Score] = field(default_factory=dict)
    centered: float | None = None

    def to_dict(self) -> dict[str, Any]:
        record = self.score.to_dict()
        if self.by_category:
            record["by_category"] = {name: score.to_dict() for name, score in self.by_category.items()}
        if self.centered is not None:
            record["centered"] = self.centered
        return record


def centered(accuracy: float, random: float) -> float:
    """0 for a guesser, 1 for all right."""
    return (accuracy - random) / (1 - random)


@dataclass(frozen=True)
class EvalResult:
    """One evaluation of one checkpoint. `checkpoint` holds path, stage, tag, step and hash."""

    command: str
    checkpoint: Mapping[str, Any]
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    core: float | None = None
    chatcore: float | None = None
    bpb: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "version": VERSION,
            "command": self.command,
            "checkpoint": dict(self.checkpoint),
            "tasks": {name: task.to_dict() for name, task in self.tasks.items()},
        }
        if self.core is not None:
            record["core"] = self.core
        if self.chatcore is not None:
            record["chatcore"] = self.chatcore
        if self.bpb:
            record["bpb"] = dict(self.bpb)
        return {**record, "seconds": round(self.seconds, 3)}

    def save(self, path: Path) -> None:
        """Write the JSON file, whole or not at all (first rank only)."""
        if is_main_rank():
            write_json(path, self.to_dict())

    def log(self, samples: Sequence[Mapping[str, str]] = ()) -> None:
        """Add the record, and samples, to runs/<command>-<stage>/metrics.jsonl, where the report looks."""
        writer = MetricsWriter(runs_dir(f"{self.command}-{self.checkpoint['stage']}") / "metrics.jsonl")
        for sample in samples:
            writer.write("sample", **sample)
        values = self.to_dict()
        del values["version"]  # the line carries the version of the metrics format
        writer.write("eval", **values)

    def finish(self, path: Path | None, samples: Sequence[Mapping[str, str]] = ()) -> None:
        """Log, save where a file was asked for, and say in one line what came out."""
        self.log(samples)
        parts = [f"{split} bpb {value:.4f}" for split, value in self.bpb.items()]
        if self.core is not None:
            parts.append(f"CORE {self.core:.4f}")
        elif len(self.tasks) <= 8:
            parts += [f"{name} {task.score.accuracy:.4f}" for name, task in self.tasks.items()]
        if self.chatcore is not None:
            parts.append(f"ChatCORE {self.chatcore:.4f}")
        say(f"{self.command} {self.checkpoint['stage']}: {', '.join([*parts, duration(self.seconds)])}")
        if path is not None:
            self.save(path)
            say(f"Results: {path}")


def require_writable(path: Path | None) -> None:
    """Say before an hour of work, not after it, that the results cannot be written to `path`."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"--json={path} is a folder", "Name a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder of --json={path} does not exist", "Make it first")


def require_counts(**counts: int) -> None:
    """UserError for a negative number; 0 stands for the default."""
    for name, value in counts.items():
        if value < 0:
            raise UserError(f"--{name} is {value}", "Give a positive number, or leave it out")


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    """Which model was measured: where it lies, and the hash of its weights."""
    manifest = checkpoint.verify(folder, hashes=False)
    return {
        "path": str(folder),
        "stage": manifest.stage,
        "tag": manifest.tag,
        "step": manifest.step,
        "hash": manifest.hash,
    }
