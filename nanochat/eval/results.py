"""The result of an evaluation: a JSON file, and the same record in the run's metrics for the report."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nanochat
from nanochat import checkpoint
from nanochat.console import UserError, duration, is_main_rank, say
from nanochat.metrics import MetricsWriter, evaluation_file
from nanochat.paths import write_json

RESULT_VERSION = 1
SUBJECT = 80  # characters of a commit's subject, as in the seed


def version_hash(parts: Iterable[str | bytes]) -> str:
    """16 hex digits that identify what was asked: scores with equal hashes are for equal questions in equal order."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(data) + data)  # with lengths, "ab", "c" differs from "a", "bc"
    return digest.hexdigest()[:16]


def git_state() -> dict[str, Any]:
    """commit, branch, dirty (tracked files have changes) and message (its first line); {} outside of a checkout."""
    root = Path(nanochat.__file__).parents[1]
    if not (root / ".git").exists():
        return {}

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, timeout=10, check=True)
        return done.stdout.decode(errors="replace").strip()

    try:
        commit, _, message = git("log", "-1", "--abbrev=12", "--format=%h%n%s").partition("\n")
        branch, changes = git("rev-parse", "--abbrev-ref", "HEAD"), git("status", "--porcelain", "-uno")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "branch": branch, "dirty": bool(changes), "message": message[:SUBJECT]}


def code_commit() -> str:
    """The commit of this code, marked if files have local changes; "" outside of git."""
    git = git_state()
    return git["commit"] + " (with local changes)" * git["dirty"] if git else ""


def code() -> dict[str, str]:
    """Which code runs: nanochat's version, and its commit in a checkout."""
    found = {"nanochat": nanochat.__version__}
    return {**found, "commit": head} if (head := code_commit()) else found


def made() -> dict[str, Any]:
    """When, with which code and by which command line: date in UTC, nanochat's version, commit, argv."""
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"date": date, **code(), "argv": [Path(sys.argv[0]).name, *sys.argv[1:]]}


def wilson(passed: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """The 95% Wilson score interval of a share; (0, 1) when nothing was tried."""
    if n == 0:
        return 0.0, 1.0
    p, spread = passed / n, z * z / n
    middle = (p + spread / 2) / (1 + spread)
    half = z * math.sqrt(p * (1 - p) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The 95% interval of a mean of independent values, from the intervals of the values.

    Their variances add up; each side's variance is recovered from that side's limit (Zou and Donner 2008,
    https://doi.org/10.1002/sim.3095), so that a share of 0 or 1 does not count as certain.
    """
    mean = sum(values) / len(values)
    low = math.hypot(*(x - interval[0] for x, interval in zip(values, intervals, strict=True))) / len(values)
    high = math.hypot(*(interval[1] - x for x, interval in zip(values, intervals, strict=True))) / len(values)
    return mean - low, mean + high


@dataclass(frozen=True)
class Score:
    """The mean share of right answers to `n` questions; `passed` is the sum of the shares.

    baseline: the score of always giving the most common answer. trials: the effective sample size, where a question
    was asked more than once; None: `n`.
    """

    passed: float
    n: int
    baseline: float | None = None
    trials: float | None = None

    @classmethod
    def of(cls, shares: Sequence[float], samples: int = 1, baseline: float | None = None) -> Score:
        """The score from every question's share of right answers out of `samples`."""
        n, passed = len(shares), math.fsum(shares)
        if samples == 1 or n == 1 or not 0 < passed < n:  # one question does not show how much questions vary
            return cls(passed, n, baseline)
        # Answers to one question are correlated: compare the variance of the questions' shares with the binomial one.
        mean = passed / n
        variance = math.fsum((share - mean) ** 2 for share in shares) / n
        worth = min(samples, mean * (1 - mean) / variance) if variance else samples
        return cls(passed, n, baseline, n * worth)

    @property
    def accuracy(self) -> float:
        return self.passed / self.n if self.n else 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        trials = self.n if self.trials is None else self.trials
        return wilson(self.accuracy * trials, trials)

    def to_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = {"accuracy": self.accuracy, "n": self.n, "ci95": list(self.ci95)}
        return record if self.baseline is None else {**record, "baseline": self.baseline}


@dataclass(frozen=True)
class TaskResult:
    """A task's score, its parts by category, and (accuracy - random) / (1 - random) where random is known.

    random: the score of guessing. version: `version_hash` of what was asked. right: number of right answers to each
    question, in order. settings: what else decided the score, such as temperature, seed and `num_samples` (default 1).
    """

    score: Score
    by_category: Mapping[str, Score] = field(default_factory=dict)
    centered: float | None = None
    random: float | None = None
    version: str = ""
    right: Sequence[int] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    pass_at_k: Mapping[int, float] = field(default_factory=dict)
    truncated: int = 0  # questions cut at the beginning because they are longer than the context
    answers: Mapping[int, Sequence[str]] = field(default_factory=dict)  # to each question; not in the JSON file
    samples: Sequence[Mapping[str, Any]] = ()  # some of them, for the report; not in the JSON file either

    @property
    def centered_ci95(self) -> tuple[float, float] | None:
        """The score's interval, centred like `centered`; None without `random`."""
        if self.random is None:
            return None
        low, high = self.score.ci95
        return centered(low, self.random), centered(high, self.random)

    def to_dict(self) -> dict[str, Any]:
        record = self.score.to_dict()
        if self.pass_at_k:
            record["pass_at_k"] = {str(k): share for k, share in self.pass_at_k.items()}
        if self.by_category:
            record["by_category"] = {name: score.to_dict() for name, score in self.by_category.items()}
        if self.centered is not None:
            record["centered"] = self.centered
        if self.random is not None:
            record["random"] = self.random
            record["centered_ci95"] = list(self.centered_ci95 or ())
        if self.truncated:
            record["truncated"] = self.truncated
        if self.version:
            record["version"] = self.version
        if self.settings:
            record["settings"] = dict(self.settings)
        if self.right:
            blank = "" if self.settings.get("num_samples", 1) == 1 else " "
            record["right"] = blank.join(str(int(count)) for count in self.right)
        return record


def centered(accuracy: float, random: float) -> float:
    """Accuracy rescaled so that random guessing scores 0 and all right scores 1."""
    return (accuracy - random) / (1 - random)


def core_interval(tasks: Mapping[str, TaskResult]) -> tuple[float, float] | None:
    """The 95% interval of the mean of the tasks' centred scores; None where a task lacks one."""
    found = [(t.centered, t.centered_ci95) for t in tasks.values() if t.centered is not None and t.centered_ci95]
    if len(found) < max(1, len(tasks)):
        return None
    return mean_interval([value for value, _ in found], [interval for _, interval in found])


@dataclass(frozen=True)
class EvalResult:
    """One evaluation of one checkpoint. `checkpoint` holds path, stage, tag, step and hash.

    bpb_version: by split, `version_hash` of the tokens measured. int8: what matrices in eight bits give, as "bpb" by
    split or as "tasks" by name, with `accuracy`, `n` and `equal_answers`, the share of answers that are the same.
    """

    command: str
    checkpoint: Mapping[str, Any]
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    core: float | None = None
    chatcore: float | None = None
    bpb: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    bpb_version: Mapping[str, str] = field(default_factory=dict)
    int8: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=made)

    def to_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "version": RESULT_VERSION,
            "command": self.command,
            "checkpoint": dict(self.checkpoint),
            "tasks": {name: task.to_dict() for name, task in self.tasks.items()},
        }
        if self.core is not None:
            record["core"] = self.core
            if interval := core_interval(self.tasks):
                record["core_ci95"] = list(interval)
        if self.chatcore is not None:
            record["chatcore"] = self.chatcore
            if interval := core_interval({name: t for name, t in self.tasks.items() if t.random is not None}):
                record["chatcore_ci95"] = list(interval)
        if self.bpb:
            record["bpb"] = dict(self.bpb)
        if self.bpb_version:
            record["bpb_version"] = dict(self.bpb_version)
        if self.int8:
            record["int8"] = dict(self.int8)
        return {**record, "made": dict(self.made), "seconds": round(self.seconds, 3)}

    def save(self, path: Path) -> None:
        """Write the JSON file atomically (first rank only)."""
        if is_main_rank():
            write_json(path, self.to_dict())

    def log(self, samples: Sequence[Mapping[str, Any]] = ()) -> None:
        """Add the record, and samples, to the metrics of the model's stage and tag, where the report looks."""
        model = self.checkpoint
        writer = MetricsWriter(evaluation_file(self.command, model["stage"], model["tag"]))
        for sample in samples:
            writer.write("sample", **sample)
        values = self.to_dict()
        del values["version"]  # the line carries the version of the metrics format
        writer.write("eval", **values)

    def finish(self, path: Path | None, samples: Sequence[Mapping[str, Any]] = ()) -> None:
        """Log the result, save it if a file was asked for, and print it in one line."""
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


def require_writable(path: Path | None, flag: str = "json") -> None:
    """UserError if results cannot be written to `path`, so that it comes before an hour of work, not after."""
    if path is None:
        return
    if path.is_dir():
        raise UserError(f"--{flag}={path} is a folder", "Name a file")
    if not path.absolute().parent.is_dir():
        raise UserError(f"the folder of --{flag}={path} does not exist", "Make it first")


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
        "tag": folder.parent.name,  # a model's tag changes when it is set aside
        "step": manifest.step,
        "hash": manifest.hash,
    }
