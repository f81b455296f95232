"""The model under test: a checkpoint, opened on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat import checkpoint
from nanochat.console import say
from nanochat.eval.results import describe_checkpoint
from nanochat.machine import Machine, describe, setup
from nanochat.model import GPT, load
from nanochat.reading import MB, read_json
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
        """The corpus it was trained on; "" when the checkpoint does not say."""
        return str(_train_state(self.folder).get("dataset") or "")

    @property
    def world_seed(self) -> int | None:
        """The tiny world it was trained on, if any."""
        seed = _train_state(self.folder).get("world_seed")
        return seed if isinstance(seed, int) else None


def _train_state(folder: Path) -> dict[str, Any]:
    try:
        state = read_json(folder / "train_state.json", 8 * MB, finite=False)
    except (OSError, ValueError):
        return {}  # a checkpoint from elsewhere
    return state if isinstance(state, dict) else {}


def open_subject(stage: str, tag: str | None, step: int | None, device: str, dtype: str) -> Subject:
    """Find, verify and load a checkpoint, and say which it is."""
    folder = checkpoint.find(stage, tag, step)
    machine = setup(device, dtype)
    model = load(folder, machine.device, machine.dtype)
    facts = {**describe_checkpoint(folder), "dtype": str(machine.dtype).removeprefix("torch.")}
    subject = Subject(folder, facts, model, Tokenizer.load(folder / "tokenizer"), machine)
    say(f"{stage} {subject.facts['tag']} step {subject.facts['step']:,} on {describe(machine)}")
    return subject
