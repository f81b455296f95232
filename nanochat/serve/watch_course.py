"""A training as its metrics.jsonl tells it while that grows: only what is new is read."""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.console import NewerVersionError, require_version
from nanochat.metrics import VERSION
from nanochat.report.records import Record, cleaned

SLOW, PATIENCE = 0.02, 3  # of the mean and its spread; steps in a row that make a jump
SPREADS, SHARE = 6.0, 0.05  # how far above the mean, in mean distances from it and in parts of it
FIRST = 20  # steps before which nothing is a jump
ACCEPTED = 50  # steps after which a higher loss is the new level


@dataclass
class Jump:
    """The loss rose from its mean `before` to `after` at `step`. over: whether it has come down again."""

    step: int
    before: float
    after: float
    over: bool = False


@dataclass
class Level:
    """Where the loss is and how far it usually strays from there; notes where it jumps."""

    mean: float = 0.0
    spread: float = 0.0
    seen: int = 0
    high: int = 0  # steps in a row far above
    jumps: list[Jump] = field(default_factory=list)

    def add(self, step: int, loss: float) -> None:
        away = loss - self.mean
        far = self.seen >= FIRST and away > max(SPREADS * self.spread, SHARE * abs(self.mean))
        self.high = self.high + 1 if far else 0
        if self.high == PATIENCE:
            self.jumps.append(Jump(step - PATIENCE + 1, self.mean, loss))
        elif self.high > PATIENCE:
            self.jumps[-1].after = max(self.jumps[-1].after, loss)
        if self.jumps and not far and away < 3 * self.spread:
            self.jumps[-1].over = True
        if far and self.high < ACCEPTED:
            return  # what may be a jump is compared with what was before
        rate = max(SLOW, 1 / (self.seen + 1)) if self.high < ACCEPTED else 1.0
        self.mean += rate * away
        self.spread += rate * (abs(away) - self.spread) if self.high < ACCEPTED else 0.0
        self.seen += 1
        self.high = 0 if self.high >= ACCEPTED else self.high


class Course:
    """What a run has told so far; steps that a resume repeats count once, as in `metrics.newest`.

    steps, evals: rows in their order. summary: None unless the run has ended. resumed: the newest resume. lost: the
    first step whose loss was no number. told: when the newest row was written. generation: changes when rows that were
    there before do not count any more. problem: why the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self.problem = ""
        self._place = (0, 0)  # device and number of the file that was read
        self._offset = 0
        self._left = b""  # the beginning of a line that is still being written
        self._clear()

    def _clear(self) -> None:
        self.settings: Record = {}
        self.resumed: Record = {}
        self.summary: Record | None = None
        self.steps: list[Record] = []
        self.numbers: list[float] = []  # of the steps
        self.evals: list[Record] = []
        self.gaps: list[float] = []  # seconds between two rows
        self.told = 0.0
        self.lost: int | None = None
        self.level = Level()
        self.generation += 1

    def refresh(self) -> None:
        """Read what was written since the last time. A file that was replaced, as by a resume, is read anew."""
        try:
            with open(self.path, "rb") as f:
                found = self._stat(f.fileno())
                if found[0] != self._place or found[1] < self._offset:
                    self._place, self._offset, self._left = found[0], 0, b""
                    self._clear()
                f.seek(self._offset)
                *lines, self._left = (self._left + (new := f.read())).split(b"\n")
                self._offset += len(new)
        except FileNotFoundError:
            return  # not yet, or set aside since it was listed
        except OSError as error:
            self.problem = f"{self.path.name} cannot be read: {error.strerror}"
            return
        for line in lines:
            self._take(line)
        if self._left.endswith(b"}") and self._take(self._left):  # whole, but for its end
            self._left = b""

    @staticmethod
    def _stat(handle: int) -> tuple[tuple[int, int], int]:
        found = os.fstat(handle)
        return (found.st_dev, found.st_ino), found.st_size

    def _take(self, line: bytes) -> bool:
        """Whether the line is whole."""
        try:
            raw = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            return False  # a crash in the middle of a write
        if isinstance(raw, dict) and isinstance(raw.get("kind"), str):
            self._know(raw)
        return True

    def _know(self, raw: Record) -> None:
        try:
            require_version(raw.get("version", VERSION), VERSION, "a line of this run's metrics")
        except NewerVersionError as error:
            self.problem = str(error)
            return
        row, _ = cleaned(raw)
        self._add(row["kind"], row, raw)

    def _add(self, kind: str, row: dict[str, Any], raw: Record) -> None:
        if kind == "settings":
            self._clear()
            self.settings = row
        elif kind == "resume":
            self.resumed, self.summary = row, None
        elif kind == "summary":
            self.summary = row
        elif kind == "step" and "step" in row:
            self._step(row, raw)
        elif kind == "eval" and "step" in row:
            self.evals = [other for other in self.evals if other["step"] != row["step"]]
            self.evals.append(row)
        when = row.get("time", 0.0)
        if self.told and when > self.told and kind not in ("settings", "resume"):
            self.gaps = [*self.gaps[-199:], when - self.told]
        self.told = max(self.told, when)

    def _step(self, row: dict[str, Any], raw: Record) -> None:
        self.summary = None
        if any(row["step"] <= last["step"] for last in (*self.steps[-1:], *self.evals)):
            self._drop(row["step"])
        if "loss" in raw and "loss" not in row and self.lost is None:
            self.lost = int(row["step"])
        self.steps.append(row)
        self.numbers.append(row["step"])
        if "loss" in row and self.stage != "rl":  # whose loss says nothing about how good the model is
            self.level.add(int(row["step"]), row["loss"])

    def _drop(self, step: float) -> None:
        """Forget this step and all after it: they are told again."""
        kept = bisect_left(self.numbers, step)
        del self.steps[kept:], self.numbers[kept:]
        self.evals = [row for row in self.evals if row["step"] < step]
        self.lost = None if self.lost is not None and self.lost >= step else self.lost
        self.generation += 1
        self.level = Level()
        for row in self.steps if self.stage != "rl" else ():
            if "loss" in row:
                self.level.add(int(row["step"]), row["loss"])

    @property
    def stage(self) -> str:
        """base, mid, sft or rl: what the settings say, else the name of the folder."""
        return str(self.settings.get("stage") or self.path.parent.name.partition("-")[0])

    @property
    def tag(self) -> str:
        return str(self.settings.get("tag") or self.path.parent.name.partition("-")[2])
