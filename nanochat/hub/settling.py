"""A model from elsewhere becomes a checkpoint of ours: what all imports share."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from nanochat import checkpoint, scale
from nanochat.checkpoint.arriving import create_anew
from nanochat.console import UserError, say
from nanochat.hub.source import Source, local
from nanochat.model import GPT, save_weights
from nanochat.paths import STAGES, checkpoints_dir, require_disk
from nanochat.tokenizer import Tokenizer
from nanochat.train import state as states
from nanochat.train.chat import LR_SCALE
from nanochat.train.config import BaseConfig
from nanochat.train.state import TrainState

SLOW = 1e9  # bytes; a disk may take seconds for them
LARGEST_BATCH = 1 << 26  # tokens; a larger one in a file is not believed


@dataclass(frozen=True)
class Arrival:
    """What was read. given: the name it was asked for by. meta: what upstream's meta file says about the training.
    optimizer: the state of ours, or none."""

    stage: str
    tag: str
    step: int
    model: GPT
    tokenizer: Tokenizer
    given: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)


def stage_of_path(source: Source) -> str:
    """The stage that the names of the folders say, the nearest first; "" when they say none."""
    parts = reversed(source.path.parts)
    return next((stage for part in parts for stage, folder in STAGES.items() if part == folder), "")


def require_free(source: Source, stage: str, tag: str) -> None:
    """UserError for a tag that is no name, and when setting its run aside would move the files that are read."""
    try:
        checkpoint.lock_file(stage, tag)
    except UserError as error:  # the tag may be the folder's name
        raise UserError(error.problem, *error.remedies, "Give the import a name with --tag") from None
    if checkpoint.steps(stage, tag) and (checkpoints_dir(stage) / tag).resolve() == source.path:
        problem = f"{source.path} already holds a run of ours, {stage} {tag}"
        raise UserError(problem, "Give the import another name with --tag")


def require_fit(model_tokens: int, tokenizer: Tokenizer) -> None:
    """UserError when a tokenizer is not the model's."""
    if tokenizer.vocab_size != model_tokens:
        raise UserError(
            f"the model has {model_tokens:,} tokens, and its tokenizer {tokenizer.vocab_size:,}",
            "Name the tokenizer that it was trained with: --tokenizer",
        )


def settle(arrival: Arrival) -> Path:
    """Write the checkpoint, and return its folder. An earlier run of the tag is set aside when it is whole."""
    stage, tag, step, model = arrival.stage, arrival.tag, arrival.step, arrival.model
    need = 4 * (model.num_params() + sum(t.numel() for t in arrival.optimizer.values()))
    require_disk(checkpoints_dir(stage), need, f"the checkpoint of {stage} {tag}")
    if need > SLOW:
        say(f"Writing {need / 1e9:.1f} GB")
    with states.alone(stage, tag), create_anew(stage, tag, step) as folder:
        save_weights(model.config, model.state_dict(), folder)
        if arrival.optimizer:
            save_file(dict(arrival.optimizer), folder / states.optimizer_file(0, 1))
        (folder / "train_state.json").write_text(json.dumps(asdict(_train_state(arrival))))
        arrival.tokenizer.save(folder / "tokenizer")
    c = model.config
    say(
        f"{stage} {tag}, step {step}: {model.num_params():,} parameters ({c.arch}, depth {c.depth}, width {c.width}, "
        f"vocabulary {c.vocab_size:,}) in {checkpoint.steps(stage, tag)[step]}"
    )
    return checkpoint.steps(stage, tag)[step]


def _train_state(arrival: Arrival) -> TrainState:
    """What training needs to go on: the rates that the dial gives for this model, as if it had been trained here."""
    meta, step, given = arrival.meta, arrival.step, arrival.given
    c, ratio = arrival.model.config, BaseConfig.target_param_data_ratio
    planned = scale.tokens(c.shape, ratio)
    batch = meta.get("total_batch_size")
    if type(batch) is not int or not c.seq_len <= batch <= LARGEST_BATCH:
        batch = scale.batch_tokens(c.shape, planned, ratio)
    share = LR_SCALE.get(arrival.stage, 1.0)
    rates = scale.rates(c.shape, batch, planned, ratio).scaled(share)
    loop = meta.get("loop_state")
    loop = loop if isinstance(loop, dict) else {}
    measured = {name: _number(meta.get(name)) for name in ("val_bpb", "val_loss")}
    return TrainState(
        arrival.stage,
        arrival.tag,
        step=step,
        steps=step,
        tokens=step * batch,
        seconds=_number(loop.get("total_training_time")),
        loss=_number(loop.get("smooth_train_loss")),
        # A run of base_train goes on with it only when it has these.
        settings={"depth": c.depth, "arch": c.arch, "max_seq_len": c.seq_len, "tokenizer": arrival.tokenizer.hash},
        rates=asdict(rates),
        batch_tokens=batch,
        val={name: value for name, value in measured.items() if value},
        parent=given if local(given) else f"hf://{given.removeprefix('https://huggingface.co/').removeprefix('hf://')}",
    )


def _number(value: Any) -> float:
    """A positive finite number, else 0."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if good else 0.0
