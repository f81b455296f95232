"""The model under test: a checkpoint, opened on a device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import checkpoint
from nanochat.console import say
from nanochat.eval.results import describe_checkpoint
from nanochat.machine import Machine, describe, setup
from nanochat.model import GPT
from nanochat.model.weights import load
from nanochat.paths import STAGES
from nanochat.tokenizer import Tokenizer


@dataclass(frozen=True)
class Subject:
    """A checkpoint's folder, what the results say about it, and what is needed to run it."""

    folder: Path
    facts: dict[str, Any]
    model: GPT
    tokenizer: Tokenizer
    machine: Machine

    @property
    def dataset(self) -> str:
        """The corpus it, or the model it was made from, was trained on; "" when no checkpoint says."""
        folder = self.folder
        for _ in range(len(STAGES)):
            try:
                state = json.loads((folder / "train_state.json").read_text(encoding="utf-8"))
                if named := str(state["settings"].get("dataset") or ""):
                    return named
                folder = Path(state["parent"])
            except (OSError, ValueError, KeyError, TypeError):
                return ""  # a checkpoint from elsewhere
        return ""


def open_subject(stage: str, tag: str | None, step: int | None, device: str, dtype: str) -> Subject:
    """Find, verify and load a checkpoint, and say which it is."""
    folder = checkpoint.find(stage, tag, step)
    machine = setup(device, dtype)
    model = load(folder, machine.device, machine.dtype)
    subject = Subject(folder, describe_checkpoint(folder), model, Tokenizer.load(folder / "tokenizer"), machine)
    say(f"{stage} {subject.facts['tag']} step {subject.facts['step']:,} on {describe(machine)}")
    return subject
