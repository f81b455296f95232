"""What a training run must remember to go on exactly where it stopped."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nanochat import checkpoint, lock
from nanochat.console import UserError, duration, is_main_rank, require_version, say, warn
from nanochat.model import GPT, save_weights
from nanochat.optim import Optimizer
from nanochat.reading import MB, fits, read_json, shown
from nanochat.tokenizer import Tokenizer
from nanochat.train.config import TrainConfig, changed_settings, parse_duration

VERSION = 1
LONGEST = 8 * MB  # of train_state.json, which lists the documents that wait to be packed
COUNTS = ("step", "steps", "tokens", "seconds", "batch_tokens", "loss_scale", "good_steps")
PATIENCE = 60.0  # seconds that a run which was told to stop may take to save
T = TypeVar("T")


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
    horizon: dict[str, Any] = field(default_factory=dict)
    dataset: str = ""
    world_seed: int | None = None  # of the tiny world it was trained on
    parent: str = ""
    loss_scale: float = 2.0**16  # of float16
    good_steps: int = 0  # since the loss scale changed
    version: int = VERSION


def save(state: TrainState, model: GPT, optimizer: dict[str, Tensor], tokenizer: Tokenizer) -> Path:
    """Write the checkpoint of the current step (first rank only) and return its folder. optimizer: its state_dict."""
    with checkpoint.create(state.stage, state.tag, state.step) as folder:
        save_weights(model, folder)
        tensors = {k: v.detach().contiguous().cpu() for k, v in optimizer.items()}
        save_file(tensors, folder / "optimizer.safetensors")
        (folder / "train_state.json").write_text(json.dumps(asdict(state)))
        tokenizer.save(folder / "tokenizer")
    return checkpoint.find(state.stage, state.tag, state.step)


def read(folder: Path) -> TrainState:
    path = folder / "train_state.json"
    try:
        values = read_json(path, LONGEST, finite=False)
        require_version(values["version"], VERSION, f"{path}")
        # A validation without anything to predict measures NaN, which is no reason to give the training up.
        values["val"] = {name: v for name, v in values["val"].items() if not isinstance(v, float) or math.isfinite(v)}
        hints = get_type_hints(TrainState)
        for name, value in values.items():
            if name in hints and not fits(value, hints[name]):
                raise ValueError(f"{name} is {shown(value)}")
            if name in COUNTS and value < 0:
                raise ValueError(f"{name} is {value}, which is less than 0")
        return TrainState(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}", "Choose another checkpoint") from None


def load_optimizer(folder: Path, optimizer: Optimizer) -> None:
    path = folder / "optimizer.safetensors"
    try:
        optimizer.load_state_dict(load_file(path))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{path} does not fit this model: {error}", "Choose another checkpoint") from None


def shared(decide: Callable[[], T]) -> T:
    """The first rank's decision, or its UserError, on every rank: with different plans, ranks would drift apart."""
    decided: list[Any] = [None, None]
    if is_main_rank():
        try:
            decided[0] = decide()
        except UserError as error:
            decided[1] = (error.problem, *error.remedies)
    if dist.is_initialized():
        dist.broadcast_object_list(decided)
    if decided[1] is not None:
        raise UserError(*decided[1])
    result: T = decided[0]
    return result


def require_hash(folder: Path, weights: str) -> None:
    """UserError when another model has replaced a checkpoint since its hash was read."""
    if checkpoint.read_manifest(folder).hash != weights:
        raise UserError(f"{folder} has just been replaced by another model", "Run the command again to use it")


@contextmanager
def alone(stage: str, tag: str) -> Iterator[None]:
    """Allow one training of this stage and tag at a time: two would delete each other's checkpoints."""
    path = checkpoint.lock_file(stage, tag)
    busy = f"another training of {stage} {tag} is at work in {path.parent}"
    with ExitStack() as held:
        shared(lambda: held.enter_context(lock.hold(path, busy, PATIENCE)))
        yield


def find_resumable(stage: str, tag: str, settings: dict[str, Any], config: TrainConfig) -> Path | None:
    """The checkpoint to resume from, or None after moving any older run of the same tag aside.

    settings: everything that must be the same, including the config's own.
    """
    return shared(lambda: _decide(stage, tag, settings, config))


def _decide(stage: str, tag: str, settings: dict[str, Any], config: TrainConfig) -> Path | None:
    if not checkpoint.steps(stage, tag):
        return None
    if config.resume:
        folder = checkpoint.find(stage, tag)
        checkpoint.verify(folder)
        old = read(folder).settings
        other = changed_settings(old, settings, config)
        if not other:
            if unknown := sorted(old.keys() - settings.keys()):
                warn(f"{folder} was trained with settings that this version does not have: {', '.join(unknown)}")
            return folder
        say(f"{folder.parent} was trained with other settings ({', '.join(other)}): starting anew")
    say(f"Kept the older {stage} run {tag} as {checkpoint.set_aside(stage, tag)}")
    return None


def continued(saved: TrainState, wanted: TrainState, config: TrainConfig) -> TrainState:
    """The saved run with the new horizon; UserError when it is already past that horizon."""
    if not changed_settings(saved.horizon, wanted.horizon, config):
        return saved
    if wanted.horizon.get("time_budget"):
        budget = parse_duration(str(wanted.horizon["time_budget"]))
        if budget <= saved.seconds:
            raise UserError(
                f"the run {saved.tag} has trained for {duration(saved.seconds)} already",
                "Give a longer --time_budget",
                "Leave --resume out to start anew",
            )
        # The number of steps is measured during training.
        return replace(saved, steps=max(saved.step + 1, wanted.steps), horizon=wanted.horizon)
    steps = max(1, wanted.steps * wanted.batch_tokens // saved.batch_tokens)
    if steps < saved.step:
        raise UserError(
            f"the run {saved.tag} is at step {saved.step:,} already, past the {steps:,} asked for",
            "Ask for more",
            "Leave --resume out to start anew",
        )
    return replace(saved, steps=steps, horizon=wanted.horizon)
