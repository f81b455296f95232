"""Finished tasks of CORE in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from nanochat.console import is_main_rank, require_version, warn
from nanochat.lock import hold
from nanochat.machine import ranks
from nanochat.paths import model_runs_dir, write_json

VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """What the model chose: the index of a choice; for language modeling, 1 if every id was the likeliest."""

    choice: int
    right: bool
    cut: bool = False


def kept_file(facts: Mapping[str, Any]) -> Path:
    """The file of a model's finished tasks. facts: those of `EvalResult.checkpoint`."""
    return model_runs_dir(facts["stage"], facts["tag"]) / "base_eval" / f"core-{facts['hash']}.json"


class Kept:
    """Finished tasks in a file, so that a killed evaluation can resume where it stopped.

    facts: everything except the questions that determines a result; a task measured under other facts is measured
    again. Evaluations that run at the same time share the file.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]):
        self.path, self.facts = path, dict(facts)
        self.tasks: dict[str, dict[str, Any]] = {}

    def read(self) -> None:
        """Read the file on the first rank; all ranks use what it found, and its facts."""
        if is_main_rank():
            self.tasks = self._load()
        if ranks().world > 1:
            shared = [(self.tasks, self.facts)]
            dist.broadcast_object_list(shared)
            self.tasks, self.facts = shared[0]

    def _load(self) -> dict[str, dict[str, Any]]:
        if not self.path.exists():
            return {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            require_version(found["version"], VERSION, f"{self.path}")
            tasks: dict[str, dict[str, Any]] = found["tasks"]
            if not all(set(x["right"]) <= set("01") and x["truncated"] >= 0 for x in tasks.values()):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            warn(f"{self.path} is damaged: all tasks are measured anew")
            return {}
        return tasks

    def find(self, label: str, version: str, n: int) -> list[Outcome] | None:
        """The outcomes of a task, if it was finished on the same questions under the same facts."""
        found = self.tasks.get(label, {})
        if found.get("version") != version or found.get("facts") != self.facts or len(found["right"]) != n:
            return None
        cut = found["truncated"]
        return [Outcome(-1, x == "1", i < cut) for i, x in enumerate(found["right"])]

    def add(self, label: str, version: str, outcomes: Sequence[Outcome]) -> None:
        right = "".join(str(int(x.right)) for x in outcomes)
        cut = sum(x.cut for x in outcomes)
        found = {"version": version, "facts": self.facts, "right": right, "truncated": cut}
        if is_main_rank():
            with hold(self.path.with_suffix(".lock"), "another evaluation is writing its results"):
                write_json(self.path, {"version": VERSION, "tasks": {**self._load(), label: found}})
