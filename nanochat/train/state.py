"""What a training run must remember to go on exactly where it stopped."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch.distributed as dist
from safetensors import SafetensorError

from nanochat import checkpoint, lock
from nanochat.checkpoint.folder import OPTIMIZER
from nanochat.console import NewerVersionError, UserError, duration, is_main_rank, require_version, say, warn
from nanochat.machine import host_group
from nanochat.metrics import last, read_metrics, training_file
from nanochat.optim import Optimizer, Saved, Schedule
from nanochat.reading import MB, fits, read_json, shown
from nanochat.train.config import BaseConfig, TrainConfig, changed_settings, horizon, parse_duration
from nanochat.train.tracking import another_run

VERSION = 2  # 1 had no `steady` and `wandb`, and one rank's optimiser only
LONGEST = 8 * MB  # of train_state.json, which lists the documents that wait to be packed
COUNTS = ("step", "steps", "tokens", "seconds", "batch_tokens", "loss_scale", "good_steps", "short")
DIALLED = re.compile(r"d[1-9][0-9]*")  # tags of runs whose depth and tag nobody gave
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
    short: int = 0  # steps at the beginning whose sequences have half the length
    sizes: dict[str, int] = field(default_factory=dict)  # on a CPU, as `tuning.Sizes`; empty: none were noted
    steady: int = 0  # the last step with a checkpoint before the warm-down; 0: none
    wandb: str = ""  # the run's id there
    dialled: bool = True  # whether the dial chose the depth, as far as is known
    version: int = VERSION


def optimizer_file(rank: int, world: int) -> str:
    """The file of a rank's part of the optimiser's state."""
    return "optimizer.safetensors" if world == 1 else f"optimizer-{rank:05d}-of-{world:05d}.safetensors"


def read(folder: Path) -> TrainState:
    path = folder / "train_state.json"
    if path.name not in checkpoint.read_manifest(folder).files:
        raise UserError(f"the checkpoint {folder} lists no {path.name}", "Choose another checkpoint")
    try:
        values = read_json(path, LONGEST, finite=False)
        require_version(values["version"], VERSION, f"{path}")
        hints = get_type_hints(TrainState)
        if unknown := sorted(values.keys() - hints.keys()):
            raise NewerVersionError(f"{path} has unknown keys: {shown(', '.join(unknown))[1:-1]}", "Upgrade nanochat")
        # A validation without anything to predict measures NaN, which is no reason to give the training up.
        val = values.get("val", {})
        values["val"] = {name: v for name, v in val.items() if not isinstance(v, float) or math.isfinite(v)}
        for name, value in values.items():
            if not fits(value, hints[name]):
                raise ValueError(f"{name} is {shown(value)}")
            if name in COUNTS and value < 0:
                raise ValueError(f"{name} is {value}, which is less than 0")
        return TrainState(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}", "Choose another checkpoint") from None


def load_optimizer(folder: Path, optimizer: Optimizer) -> None:
    """UserError when the state does not fit. A checkpoint without any, which another program made, is left at that."""
    names = checkpoint.read_manifest(folder).files  # a file that the manifest does not list is nobody's
    files = [folder / name for name in sorted(names) if OPTIMIZER.fullmatch(name)]
    if not files:
        say(f"{folder} has no state of an optimiser: its moments start at zero")
        return
    try:
        optimizer.load_state_dict(Saved(files))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the optimiser's state in {folder} does not fit this model: {error}", "Choose another checkpoint"
        ) from None


def shared(decide: Callable[[], T]) -> T:
    """The first rank's decision, or its UserError, on every rank: with different plans, ranks would drift apart."""
    decided: list[Any] = [None, None]
    if is_main_rank():
        try:
            decided[0] = decide()
        except UserError as error:
            decided[1] = (error.problem, *error.remedies)
    if dist.is_initialized():
        dist.broadcast_object_list(decided, group=host_group())
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


def find_resumable(wanted: TrainState, config: TrainConfig) -> Path | None:
    """The checkpoint to go on from, or None after moving any older run of the same tag aside.

    wanted: a new run's state; its settings are everything that must be the same, including the config's own. A run
    that was interrupted goes on when it is started again; --resume goes on with a finished one, too, and --extend with
    what it was before its warm-down.
    """
    return shared(lambda: _decide(wanted, config))


def begun_depth(settings: Mapping[str, Any], config: BaseConfig) -> int:
    """Layers of the last run that this command began, if it is to go on; else 0.

    settings: a new run's, but for its depth. Today the dial might choose another depth: it measures the machine, and
    other versions have other rules. With --model_tag, --resume and --extend go on with a run of another length, too.
    """
    asked = config.resume or config.extend
    tags = [config.model_tag] if config.model_tag else [t for t in checkpoint.tags("base") if DIALLED.fullmatch(t)]
    for tag in [] if config.fresh else tags:
        for folder in reversed(checkpoint.steps("base", tag).values()):
            try:
                _require_own_state(folder, checkpoint.verify(folder, hashes=False))
                old = read(folder)
            except UserError:  # damaged: there may be an earlier one
                continue
            depth, of_any_length = old.settings.get("depth"), bool(asked and config.model_tag)
            if (
                old.dialled
                and type(depth) is int
                and not changed_settings(old.settings, settings, config)
                and (of_any_length or not changed_settings(old.horizon, horizon(config), config))
            ):
                return depth if asked or not _is_finished(old) else 0
            break
    return 0


def _decide(wanted: TrainState, config: TrainConfig) -> Path | None:
    stage, tag = wanted.stage, wanted.tag
    checkpoint.clear(stage, tag)
    extend = isinstance(config, BaseConfig) and config.extend
    damaged: list[Path] = []
    for folder in reversed(checkpoint.steps(stage, tag).values()):
        if config.fresh:
            break
        try:
            _require_own_state(folder, checkpoint.verify(folder, hashes=False))
            old = read(folder)
            if not _goes_on(folder, old, wanted, config):
                break
            checkpoint.verify(folder)
        except NewerVersionError:
            raise
        except UserError as error:
            warn(f"warning: {error.problem}: looking for an earlier checkpoint")
            damaged.append(folder)
            continue
        for other in damaged:  # else it would pass for the newest one
            say(f"Kept the damaged checkpoint as {checkpoint.reject(other)}")
        longer = bool(changed_settings(old.horizon, wanted.horizon, config))
        if extend and (longer or _is_finished(old)) and old.step > max(old.steady, _peak(old)):
            return _before_warmdown(old, wanted, config)
        return folder
    if extend:
        raise UserError(f"there is no {stage} run {tag} with these settings to extend", "Leave --extend out")
    if aside := checkpoint.set_aside(stage, tag):
        say(f"Kept the older {stage} run {tag} as {aside}")
    return None


def _require_own_state(folder: Path, manifest: checkpoint.Manifest) -> None:
    """UserError when train_state.json is damaged: what it says of versions and settings must not be believed."""
    small = {name: facts for name, facts in manifest.files.items() if name == "train_state.json"}
    for name, what in checkpoint.faults(folder, replace(manifest, files=small)):
        raise UserError(f"{folder / name} {what}", "Choose another checkpoint")


def _goes_on(folder: Path, old: TrainState, wanted: TrainState, config: TrainConfig) -> bool:
    """Whether this command goes on with that run."""
    asked = config.resume or (isinstance(config, BaseConfig) and config.extend)
    finished = _is_finished(old)
    if not asked and finished:
        return False
    if other := changed_settings(old.settings, wanted.settings, config):
        say(f"{folder.parent} was trained with other settings ({', '.join(other)}): starting anew")
        return False
    if not asked and changed_settings(old.horizon, wanted.horizon, config):
        say(f"{folder.parent} is a run of another length, at step {old.step:,}: starting anew (--resume: going on)")
        return False
    if unknown := sorted(old.settings.keys() - wanted.settings.keys()):
        warn(f"{folder} was trained with settings that this version does not have: {', '.join(unknown)}")
    return True


def _is_finished(state: TrainState) -> bool:
    """Whether a run came to its end. Interrupted in its last evaluation, it did not."""
    rows = read_metrics(training_file(state.stage, state.tag))
    return state.step >= state.steps and (not rows or last(rows, "summary") is not None)


def _peak(old: TrainState) -> int:
    """Steps of a pretraining in which its learning rate was at the peak."""
    return Schedule.pretraining(old.steps).steady


def _before_warmdown(old: TrainState, wanted: TrainState, config: TrainConfig) -> Path:
    """Give a run's tag back its last checkpoint before the warm-down, and return that."""
    longer = continued(old, wanted, config)
    if longer.steps <= old.steps:
        problem = f"the run {old.tag} had {old.steps:,} steps, and {longer.steps:,} are asked for"
        raise UserError(problem, "Ask for more: --num_iterations, --target_param_data_ratio, --time_budget")
    have = checkpoint.steps(old.stage, old.tag)
    if old.steady not in have:
        raise UserError(
            f"the run {old.tag} has no checkpoint from before its warm-down, but of the steps "
            f"{', '.join(map(str, have))}",
            "Go on from its end with --resume in place of --extend: at first the learning rate rises again",
        )
    checkpoint.verify(have[old.steady])
    aside = checkpoint.fork(old.stage, old.tag, old.steady)
    another_run(training_file(old.stage, old.tag).parent)
    say(f"Extending {old.tag} from step {old.steady:,}, before its warm-down; what it was is now {aside}")
    return checkpoint.steps(old.stage, old.tag)[old.steady]


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
                "Give --fresh to start anew",
            )
        # The number of steps is measured during training.
        return replace(saved, steps=max(saved.step + 1, wanted.steps), horizon=wanted.horizon)
    steps = max(1, wanted.steps * wanted.batch_tokens // saved.batch_tokens)
    if steps < saved.step:
        raise UserError(
            f"the run {saved.tag} is at step {saved.step:,} already, past the {steps:,} asked for",
            "Ask for more",
            "Give --fresh in place of --resume to start anew",
        )
    return replace(saved, steps=steps, horizon=wanted.horizon)
