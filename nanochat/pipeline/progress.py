"""Which stages are done: <base>/speedrun.json, a fingerprint per stage."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nanochat.console import warn
from nanochat.paths import base_dir, write_json
from nanochat.pipeline.settings import Stage

VERSION = 1


def fingerprints(stages: tuple[Stage, ...]) -> list[str]:
    """What each stage's result depends on: its own settings and those of the stages before that leave something."""
    out, before = [], ""
    for stage in stages:
        parts = [before, stage.name, *stage.args, *(_state(path) for path in stage.inputs)]
        own = hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
        out.append(own)
        if stage.output:
            before = own
    return out


def _state(path: Path) -> str:
    """Names, sizes and times of the files: what has been edited is not what was trained on."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return ",".join(f"{f.name}:{f.stat().st_size}:{f.stat().st_mtime_ns}" for f in files if f.exists()) or "absent"


class StageLog:
    """started, done: fingerprint by stage. choices: depths chosen, by question (see settings.resolve)."""

    def __init__(self) -> None:
        self.path = base_dir() / "speedrun.json"
        self.started: dict[str, str] = {}
        self.done: dict[str, str] = {}
        self.choices: dict[str, int] = {}
        try:
            saved = json.loads(self.path.read_text())
            self.started, self.done = dict(saved["started"]), dict(saved["done"])
            self.choices = dict(saved["choices"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            kept = self.path.with_suffix(".damaged.json")
            self.path.replace(kept)
            warn(f"warning: {self.path} was damaged and is kept as {kept.name}; all stages will run again")

    def is_done(self, stage: Stage, fingerprint: str) -> bool:
        """Finished with these settings, and what it left is still there."""
        return self.done.get(stage.name) == fingerprint and (not stage.output or any(base_dir().glob(stage.output)))

    def was_started(self, stage: Stage, fingerprint: str) -> bool:
        return self.started.get(stage.name) == fingerprint

    def start(self, stage: Stage, fingerprint: str, later: tuple[Stage, ...]) -> None:
        """What `later` stages made from an earlier result of this one is out of date."""
        self.started[stage.name] = fingerprint
        self.done.pop(stage.name, None)
        for other in later:
            if stage.output or other.name == "report":
                self.done.pop(other.name, None)
        self.save()

    def finish(self, stage: Stage, fingerprint: str) -> None:
        self.done[stage.name] = fingerprint
        self.save()

    def save(self) -> None:
        values = {"version": VERSION, "started": self.started, "done": self.done, "choices": self.choices}
        write_json(self.path, values)
