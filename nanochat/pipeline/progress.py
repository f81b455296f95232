"""Which stages are done: <base>/speedrun.json, one fingerprint per stage, each including the one before."""

from __future__ import annotations

import hashlib
import json

from nanochat.paths import base_dir, write_json
from nanochat.pipeline.settings import Stage

VERSION = 1


def fingerprints(stages: tuple[Stage, ...]) -> list[str]:
    """A stage is done only with the same settings after the same stages."""
    out, before = [], ""
    for stage in stages:
        before = hashlib.sha256(f"{before}|{stage.name}|{'|'.join(stage.args)}".encode()).hexdigest()[:16]
        out.append(before)
    return out


class StageLog:
    """started: fingerprint of every stage begun; done: of those finished."""

    def __init__(self) -> None:
        self.path = base_dir() / "speedrun.json"
        try:
            saved = json.loads(self.path.read_text())
            self.started, self.done = dict(saved["started"]), dict(saved["done"])
        except (OSError, ValueError, KeyError, TypeError):
            self.started, self.done = {}, {}  # nothing recorded: every stage runs, and says so

    def is_done(self, stage: Stage, fingerprint: str) -> bool:
        return self.done.get(stage.name) == fingerprint

    def was_started(self, stage: Stage, fingerprint: str) -> bool:
        return self.started.get(stage.name) == fingerprint

    def start(self, stage: Stage, fingerprint: str) -> None:
        self.started[stage.name] = fingerprint
        self.done.pop(stage.name, None)
        self._write()

    def finish(self, stage: Stage, fingerprint: str) -> None:
        self.done[stage.name] = fingerprint
        self._write()

    def _write(self) -> None:
        write_json(self.path, {"version": VERSION, "started": self.started, "done": self.done})
