"""Which stages are done: a fingerprint per stage, in <base>/speedrun.json or another file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nanochat import checkpoint
from nanochat.console import UserError, require_version, warn
from nanochat.paths import base_dir, write_json
from nanochat.pipeline.stages import Stage

VERSION = 2


def fingerprints(stages: tuple[Stage, ...]) -> list[str]:
    """A hash of what each stage's result depends on: its settings and those of earlier stages that have an output."""
    out, before = [], ""
    for stage in stages:
        parts = [before, stage.name, *stage.args, *(_state(path) for path in stage.inputs)]
        own = hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
        out.append(own)
        if stage.output:
            before = own
    return out


def _state(path: Path) -> str:
    """Names, sizes and times of the files, to notice edits since the training."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return ",".join(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files if f.exists()) or "absent"


def needs(stages: tuple[Stage, ...], number: int) -> list[Stage]:
    """The stages whose output a stage needs: back to the last one that trained a model, or all if none did."""
    found: list[Stage] = []
    if stages[number].name == "report":  # it uses whatever metrics exist
        return found
    for stage in reversed(stages[:number]):
        if stage.output:
            found.append(stage)
        if stage.trains:
            break
    return found


class StageLog:
    """started, done: fingerprint by stage. left: digest of each finished stage's output. choices: depths chosen, by
    question (see settings.resolve). spent: by run, see `spending.Bill`."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or base_dir() / "speedrun.json"
        self.started: dict[str, str] = {}
        self.done: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.choices: dict[str, int] = {}
        self.spent: dict[str, dict[str, float]] = {}
        try:
            saved = json.loads(self.path.read_text())
            require_version(saved["version"], VERSION, f"{self.path}")
            self.started, self.done = dict(saved["started"]), dict(saved["done"])
            self.choices = dict(saved["choices"])
            self.left = dict(saved.get("left", {}))  # not in version 1
            if isinstance(spent := saved.get("spent"), dict):  # of no weight: whatever it says, the stages count
                self.spent = {run: dict(one) for run, one in spent.items() if isinstance(one, dict)}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            kept = self.path.with_suffix(".damaged.json")
            self.path.replace(kept)
            warn(f"warning: {self.path} was damaged and is kept as {kept.name}; all stages will run again")

    def is_done(self, stage: Stage, fingerprint: str) -> bool:
        """Whether it was finished with these settings, and its output, or a replacement, exists."""
        return self.done.get(stage.name) == fingerprint and (not stage.output or newest_output(stage) is not None)

    def is_replaced(self, stage: Stage) -> bool:
        """Whether a finished stage's output has been replaced."""
        now = digest(stage)
        return self.left.get(stage.name, now) != now

    def know(self, stage: Stage) -> None:
        """Record the present output as a finished stage's own, if version 1 of this file did not."""
        if stage.output and stage.name not in self.left:
            self.left[stage.name] = digest(stage)
            self.save()

    def accept(self, stage: Stage, later: tuple[Stage, ...]) -> None:
        """Go on from the replacement of a stage's output; what was made from the original is out of date."""
        self.left[stage.name] = digest(stage)
        for other in later:
            self.done.pop(other.name, None)
        self.save()

    def forget(self, stage: Stage) -> None:
        """Run a stage again, from the beginning."""
        self.started.pop(stage.name, None)
        self.done.pop(stage.name, None)
        self.save()

    def was_started(self, stage: Stage, fingerprint: str) -> bool:
        return self.started.get(stage.name) == fingerprint

    def start(self, stage: Stage, fingerprint: str, later: tuple[Stage, ...]) -> None:
        """Record a start; what `later` stages made from an earlier result of this one is out of date."""
        self.started[stage.name] = fingerprint
        self.done.pop(stage.name, None)
        for other in later:
            if stage.output or other.name == "report":
                self.done.pop(other.name, None)
        self.save()

    def finish(self, stage: Stage, fingerprint: str) -> None:
        self.done[stage.name] = fingerprint
        if stage.output:
            self.left[stage.name] = digest(stage)
        self.save()

    def save(self) -> None:
        values = {"started": self.started, "done": self.done, "left": self.left, "choices": self.choices}
        more = {"spent": self.spent} if self.spent else {}
        write_json(self.path, {"version": VERSION, **values, **more})


def newest_output(stage: Stage) -> Path | None:
    """The file that represents a stage's output: for a model, its newest step's manifest."""
    found = sorted(base_dir().glob(stage.output), key=lambda path: (len(path.parent.name), path))
    return found[-1] if found else None


def digest(stage: Stage) -> str:
    """16 hex digits that identify a stage's output: the hash of a model's weights, else of the file that lists it."""
    path = newest_output(stage)
    if path is None:
        return ""
    if stage.trains:
        try:  # the one that later stages find
            return checkpoint.read_manifest(checkpoint.find(stage.trains, path.parent.parent.name)).hash
        except UserError:
            return "damaged"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
