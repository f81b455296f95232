"""Compare two evaluations: which scores differ by more than chance explains."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat.console import UserError, require_version
from nanochat.eval import RESULT_VERSION, centered, mean_interval

LEVEL = 0.05  # chance that any of the tasks shows a difference where there is none
MEANS = {"core": "CORE", "chatcore": "ChatCORE"}


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:+.4f} to {self.high:+.4f}"


def difference(a: Estimate, b: Estimate, correlation: float = 0.0) -> Estimate:
    """b - a; the arms of the two intervals are combined like standard deviations.

    For two shares with Wilson intervals this is Newcombe's interval (Statistics in Medicine 17, 1998: page 873 without,
    page 2635 with a correlation).
    """

    def arm(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * correlation * x * y + y * y))

    value = b.value - a.value
    low, high = arm(b.value - b.low, a.high - a.value), arm(b.high - b.value, a.value - a.low)
    return Estimate(value, value - low, value + high)


def mean(parts: Sequence[Estimate]) -> Estimate:
    """The mean of independent numbers."""
    values = [part.value for part in parts]
    return Estimate(sum(values) / len(parts), *mean_interval(values, [(part.low, part.high) for part in parts]))


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of outcomes on the same questions, with Newcombe's continuity correction; 0 if one is constant."""
    covariance = float(np.mean(np.multiply(a, b)) - np.mean(a) * np.mean(b))
    if covariance > 0:
        covariance = max(0.0, covariance - 0.5 / len(a))
    spread = float(np.std(a) * np.std(b))
    return covariance / spread if spread else 0.0


def swap_test(differences: Sequence[int]) -> float:
    """The p value of the sum, if chance decides which of the two models got which outcome.

    Exact, two-sided. With outcomes of 0 and 1 it is McNemar's exact test, else Fisher's randomisation test for pairs.
    """
    steps = [abs(d) for d in differences if d]
    unit = math.gcd(*steps) or 1
    size = sum(steps) // unit
    chance = np.zeros(2 * size + 1)  # probability that the sum is index - size
    chance[size] = 1.0
    for step in steps:
        chance = (np.roll(chance, step // unit) + np.roll(chance, -step // unit)) / 2
    far = np.abs(np.arange(-size, size + 1)) >= abs(sum(differences)) // unit
    return min(1.0, float(chance[far].sum()))


def score_test(a: float, n: int, b: float, m: int) -> float:
    """The two-sided p value of the difference between shares a (of n) and b (of m), if both have one true share."""
    pooled = (a * n + b * m) / (n + m)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return math.erfc(abs(a - b) / deviation / math.sqrt(2)) if deviation else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """The p values, each raised so that all can be compared with one level (Holm 1979)."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = highest
    return adjusted


def _number(value: Any) -> float:
    """ValueError for NaN and infinity, which Python's JSON can hold."""
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{value} is no score")
    return number


@dataclass(frozen=True)
class TaskRecord:
    """A task of a result file. right: right answers per question, out of `samples`; random: the score of guessing."""

    score: Estimate
    n: int
    version: str
    right: Sequence[int]
    samples: int
    random: float | None
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> TaskRecord:
        settings = record.get("settings", {})
        samples = settings.get("num_samples", 1)
        right = [int(count) for count in (record.get("right", "").split() if samples > 1 else record.get("right", ""))]
        if samples < 1 or (right and (len(right) != record["n"] or max(right) > samples)):
            raise ValueError("outcomes of other questions")
        score = Estimate(_number(record["accuracy"]), *map(_number, record["ci95"]))
        return cls(score, int(record["n"]), record.get("version", ""), right, samples, record.get("random"), settings)

    @property
    def shares(self) -> list[float]:
        return [count / self.samples for count in self.right]

    def scaled(self, estimate: Estimate) -> Estimate:
        """Convert a difference of accuracies to a difference of centred accuracies."""
        room = 1 - (self.random or 0.0)
        return Estimate(estimate.value / room, estimate.low / room, estimate.high / room)

    def centered(self) -> Estimate:
        guess = self.random or 0.0
        return Estimate(*(centered(x, guess) for x in (self.score.value, self.score.low, self.score.high)))


@dataclass(frozen=True)
class ResultFile:
    """A result file."""

    title: str
    tasks: Mapping[str, TaskRecord]
    means: Mapping[str, float]
    bpb: Mapping[str, float]
    bpb_version: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> ResultFile:
        remedy = "Give two files that `nanochat chat_eval --json FILE`, base_eval or base_loss wrote"
        try:
            record = json.loads(path.read_text(encoding="utf-8-sig"))
            require_version(record["version"], RESULT_VERSION, f"{path}")
            model = record["checkpoint"]
            title = f"{record['command']} of {model['stage']} {model['tag']} step {model['step']:,}"
            title += f", weights {model['hash'][:12]}{', ' + model['dtype'] if 'dtype' in model else ''}"
            title += f", {record.get('made', {}).get('date', 'without a date')} ({path})"
            return cls(
                title,
                {name: TaskRecord.of(task) for name, task in record["tasks"].items()},
                {key: _number(record[key]) for key in MEANS if key in record},
                {split: _number(value) for split, value in record.get("bpb", {}).items()},
                dict(record.get("bpb_version", {})),
            )
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}", remedy) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} is not a result file", remedy) from None


@dataclass(frozen=True)
class Difference:
    """A row of the table: two numbers; b - a, or None if they are of different questions; the p value of b - a."""

    name: str
    a: float
    b: float
    difference: Estimate | None
    note: str
    p: float | None = None
    n: str = ""

    @property
    def better(self) -> str:
        assert self.difference is not None
        return "B" if self.difference.value > 0 else "A"


def compare(first: Path, second: Path) -> str:
    """A table of what two result files have in common, and a verdict in words.

    UserError for a file that is not a result file, or when nothing is in common.
    """
    a, b = ResultFile.read(first), ResultFile.read(second)
    rows = [_task_row(name, a.tasks[name], b.tasks[name]) for name in a.tasks if name in b.tasks]
    splits = [split for split in a.bpb if split in b.bpb]
    if not rows and not splits:
        raise UserError(f"{first} and {second} have no task in common", "Compare evaluations of the same tasks")
    means = [_mean_row(key, a, b, rows) for key in MEANS if key in a.means and key in b.means]
    tested = {row.name: row.p for row in rows if row.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    lines = [f"A: {a.title}", f"B: {b.title}", "", *_table([*rows, *means], adjusted)]
    for split in splits:
        same = _same_text(split, a, b)
        known = "the same text" if same else "not the same text" if same is False else "maybe not the same text"
        lines.append(f"{split} bpb: A {a.bpb[split]:.6f}, B {b.bpb[split]:.6f}, {known}")
    return "\n".join([*lines, "", *_verdict(a, b, rows, means, adjusted)])


def _task_row(name: str, a: TaskRecord, b: TaskRecord) -> Difference:
    n = f"{a.n:,}" if a.n == b.n else f"{a.n:,}/{b.n:,}"
    keys = [key for key in {**a.settings, **b.settings} if a.settings.get(key) != b.settings.get(key)]
    differ = "".join(f", {key} {a.settings.get(key)}/{b.settings.get(key)}" for key in keys)
    if a.version and b.version and a.version != b.version:
        return Difference(name, a.score.value, b.score.value, None, f"not the same questions{differ}", n=n)
    if a.version and b.version and len(a.right) == len(b.right) > 0:
        gap = difference(a.score, b.score, correlation(a.shares, b.shares))
        p = swap_test([y * a.samples - x * b.samples for x, y in zip(a.right, b.right, strict=True)])
        return Difference(name, a.score.value, b.score.value, gap, f"paired{differ}", p, n)
    gap, p = difference(a.score, b.score), score_test(a.score.value, a.n, b.score.value, b.n)
    same = "" if a.version and b.version else ", maybe not the same questions"
    return Difference(name, a.score.value, b.score.value, gap, f"unpaired{same}{differ}", p, n)


def _mean_row(key: str, a: ResultFile, b: ResultFile, rows: Sequence[Difference]) -> Difference:
    """CORE or ChatCORE: the mean of the tasks' centred scores, whose errors are independent of each other."""

    def parts(result: ResultFile) -> dict[str, TaskRecord]:
        return {name: task for name, task in result.tasks.items() if task.random is not None}

    in_a, in_b = parts(a), parts(b)
    gaps = {row.name: row.difference for row in rows}
    scaled = [in_a[name].scaled(gap) for name in in_a if (gap := gaps.get(name)) is not None]
    if not in_a or in_a.keys() != in_b.keys() or len(scaled) < len(in_a):
        return Difference(MEANS[key], a.means[key], b.means[key], None, "not all tasks can be compared")
    own = [mean([task.centered() for task in part.values()]) for part in (in_a, in_b)]
    note = ", ".join(f"{letter} {x.low:.4f} to {x.high:.4f}" for letter, x in zip("AB", own, strict=True))
    return Difference(MEANS[key], a.means[key], b.means[key], mean(scaled), note)


def _table(rows: Sequence[Difference], adjusted: Mapping[str, float]) -> list[str]:
    if not rows:
        return []
    cells = [["", "n", "A", "B", "B - A", "95% interval", "p (Holm)", ""]]
    for row in rows:
        gap = ("-", "-") if row.difference is None else (f"{row.difference.value:+.4f}", str(row.difference))
        p = "-" if (held := adjusted.get(row.name)) is None else f"{held:.4f}" if held >= 0.0001 else "<0.0001"
        cells.append([row.name, row.n, f"{row.a:.4f}", f"{row.b:.4f}", *gap, p, row.note])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:-1], widths[1:-1]), line[-1]]).rstrip()
        for line in cells
    ]


def _verdict(
    a: ResultFile, b: ResultFile, rows: Sequence[Difference], means: Sequence[Difference], adjusted: Mapping[str, float]
) -> list[str]:
    lines = []
    if adjusted:
        found = [f"{row.better} is better at {row.name}" for row in rows if adjusted.get(row.name, 1.0) < LEVEL]
        what = ", ".join(found) or "no task differs"
        lines.append(f"Beyond noise ({LEVEL:.0%} over all tasks together): {what}.")
    for row in means:
        if row.difference is not None:
            clear = not row.difference.low <= 0 <= row.difference.high
            lines.append(f"{row.name}: {f'{row.better} is better' if clear else 'no difference'} beyond noise.")
    for split in a.bpb:
        if _same_text(split, a, b) and a.bpb[split] != b.bpb[split]:
            lines.append(f"{split} bpb: {'B' if b.bpb[split] < a.bpb[split] else 'A'} is better on this text.")
    apart = [row.name for row in (*rows, *means) if row.difference is None]
    if apart:
        lines.append(f"Not comparable: {', '.join(apart)}.")
    for letter, own, other in (("A", a, b), ("B", b, a)):
        if alone := [name for name in own.tasks if name not in other.tasks]:
            lines.append(f"Only in {letter}: {', '.join(alone)}.")
    return lines


def _same_text(split: str, a: ResultFile, b: ResultFile) -> bool | None:
    """None when a file does not say."""
    one, other = a.bpb_version.get(split), b.bpb_version.get(split)
    return one == other if one and other else None
