"""What a training run must remember to go on exactly where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from nanochat import checkpoint
from nanochat.console import UserError, say
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_weights
from nanochat.optim.optimizer import Optimizer
from nanochat.tokenizer import Tokenizer

VERSION = 1


@dataclass
class TrainState:
    """Saved as train_state.json. seconds: training time so far, compilation included."""

    stage: str
    tag: str
    step: int = 0
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    batch_tokens: int = 0
    loader: dict[str, Any] | None = None
    val: dict[str, float] = field(default_factory=dict)
    dataset: str = ""
    parent: str = ""
    version: int = VERSION


def save(state: TrainState, model: GPT, optimizer: Optimizer, tokenizer: Tokenizer) -> Path:
    """Write the checkpoint of the current step (first rank only) and return its folder."""
    with checkpoint.create(state.stage, state.tag, state.step) as folder:
        save_weights(model, folder)
        tensors = {k: v.detach().contiguous().cpu() for k, v in optimizer.state_dict().items()}
        save_file(tensors, folder / "optimizer.safetensors")
        (folder / "train_state.json").write_text(json.dumps(asdict(state)))
        tokenizer.save(folder / "tokenizer")
    return checkpoint.find(state.stage, state.tag, state.step)


def read(folder: Path) -> TrainState:
    try:
        return TrainState(**json.loads((folder / "train_state.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {folder / 'train_state.json'}: {error}", "Choose another checkpoint") from None


def load_optimizer(folder: Path, optimizer: Optimizer) -> None:
    path = folder / "optimizer.safetensors"
    try:
        optimizer.load_state_dict(load_file(path))
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} does not fit this model: {error}", "Choose another checkpoint") from None


def find_resumable(stage: str, tag: str, settings: dict[str, Any], resume: bool, main: bool) -> Path | None:
    """The checkpoint to go on from. A run that starts anew moves an older one of the same tag aside, first."""
    found = checkpoint.steps(stage, tag)
    if not found:
        return None
    if resume:
        folder = checkpoint.find(stage, tag)
        checkpoint.verify(folder)
        old = read(folder).settings
        changed = [k for k in settings if old.get(k) != settings[k]]
        if not changed:
            return folder
        say(f"{folder.parent} was trained with other settings ({', '.join(changed)}): starting anew")
    if main:
        moved = checkpoint.set_aside(stage, tag)
        say(f"Kept the older {stage} run {tag} as {moved}")
    return None
