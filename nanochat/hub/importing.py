"""Upstream's checkpoints become ours: weights, config, tokenizer, and the optimiser's state where there is one.

Nothing in the files is run: tensors come through torch's safe unpickler, the tokenizer through a reader of our own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from nanochat import checkpoint, scale
from nanochat.checkpoint.arriving import create_anew
from nanochat.checkpoint.pickles import RunsCodeError
from nanochat.checkpoint.torchfile import read_tensors
from nanochat.checkpoint.upstream import Files, read_meta, steps_among
from nanochat.console import UserError, say
from nanochat.hub.source import LISTED, Source, local, open_source
from nanochat.hub.tokenizers import read_tokenizer
from nanochat.model import GPT, save_weights
from nanochat.model.upstream import our_name, read_model
from nanochat.optim.upstream import UnfitError, read_state
from nanochat.paths import STAGES, checkpoints_dir, require_disk
from nanochat.tokenizer import Tokenizer
from nanochat.train import state as states
from nanochat.train.chat import LR_SCALE as CHAT_SCALE
from nanochat.train.config import BaseConfig
from nanochat.train.rl import LR_SCALE as RL_SCALE
from nanochat.train.state import TrainState

SLOW = 1e9  # bytes; a disk may take seconds for them
LARGEST_BATCH = 1 << 26  # tokens; a larger one in a file is not believed


def import_checkpoint(
    given: str, stage: str = "", tag: str = "", step: int = -1, tokenizer: str = "", optimizer: bool = True
) -> Path:
    """Make a checkpoint of ours from one of upstream's, and return its folder.

    given: a folder with its files, or a Hub repository (see `open_source`). stage, tag: "" for what the folder's path
    says. step: -1 for the newest. tokenizer: where tokenizer.pkl is, when it is not with the checkpoint. optimizer:
    whether to take the optimiser's state, too. An earlier run of the tag is set aside. UserError for files that do not
    fit, are damaged, or would run code; then nothing is written.
    """
    source = open_source(given)
    step, files = _choose(source, step)
    tag = tag or source.path.name
    names = [files.model, files.meta, *(files.ranks.values() if optimizer else ())]
    stage = stage or _stage_of_path(source)
    if stage:
        _require_free(source, stage, tag)
    paths = dict(zip(names, source.take(names), strict=True))
    meta = read_meta(paths[files.meta])
    if not stage:
        stage = _stage_of_meta(meta, source)
        _require_free(source, stage, tag)
    saved = read_tensors(paths[files.model])
    model = read_model(saved, meta.get("model_config"), str(paths[files.model]))
    taken = _tokenizer_path(source, tokenizer)
    found = read_tokenizer(taken)
    say(f"The tokenizer is that of {taken}")
    if found.vocab_size != model.config.vocab_size:
        raise UserError(
            f"the model has {model.config.vocab_size:,} tokens, and its tokenizer {found.vocab_size:,}",
            "Name the tokenizer that it was trained with: --tokenizer",
        )
    state, why = _optimizer_state(files, paths, model, _rows(saved)) if optimizer else ({}, "it was not asked for")
    need = 4 * (model.num_params() + sum(t.numel() for t in state.values()))
    require_disk(checkpoints_dir(stage), need, f"the checkpoint of {stage} {tag}")
    if need > SLOW:
        say(f"Writing {need / 1e9:.1f} GB")
    with states.alone(stage, tag), create_anew(stage, tag, step) as folder:
        _write(folder, model, state, found, _train_state(stage, tag, step, meta, model, found, given))
    c = model.config
    say(
        f"{stage} {tag}, step {step}: {model.num_params():,} parameters ({c.arch}, depth {c.depth}, width {c.width}, "
        f"vocabulary {c.vocab_size:,}) in {checkpoint.steps(stage, tag)[step]}"
    )
    say("The optimiser's state came with it" if state else f"Without the optimiser's state: {why}")
    return checkpoint.steps(stage, tag)[step]


def _choose(source: Source, step: int) -> tuple[int, Files]:
    found = steps_among(source.names())
    if not found:
        below = source.below()
        more = f" and {len(below) - LISTED} more" if len(below) > LISTED else ""
        remedy = f"Name one of these: {', '.join(below[:LISTED])}{more}" if below else "Name the folder that holds it"
        raise UserError(f"{source.path} has no model_NNNNNN.pt", remedy)
    if step < 0:
        step = max(found)
    if step not in found:
        raise UserError(f"{source.path} has no step {step}", f"Choose one of: {', '.join(map(str, found))}")
    if not found[step].meta:
        problem = f"{source.path} has no meta_{step:06d}.json beside {found[step].model}"
        raise UserError(problem, "Add it", "Choose another --step")
    return step, found[step]


def _stage_of_path(source: Source) -> str:
    """The stage that the names of the folders say, the nearest first; "" when they say none."""
    parts = reversed(source.path.parts)
    return next((stage for part in parts for stage, folder in STAGES.items() if part == folder), "")


def _stage_of_meta(meta: Mapping[str, Any], source: Source) -> str:
    """The stage by what only its script saves. A flat repository, as on the Hub, says nothing else."""
    if "loop_state" in meta or "device_batch_size" in meta:
        stage = "base"
    elif "val_loss" in meta:
        stage = "sft"
    else:
        raise UserError(f"neither {source.path} nor its files say which stage it is of", "Say it with --stage")
    say(f"By what its meta file holds, it is of the stage {stage} (--stage takes another)")
    return stage


def _require_free(source: Source, stage: str, tag: str) -> None:
    """UserError for a tag that is no name, and when setting its run aside would move the files that are read."""
    checkpoint.lock_file(stage, tag)
    if checkpoint.steps(stage, tag) and (checkpoints_dir(stage) / tag).resolve() == source.path:
        problem = f"{source.path} already holds a run of ours, {stage} {tag}"
        raise UserError(problem, "Give the import another name with --tag")


def _tokenizer_path(source: Source, given: str) -> Path:
    if there := local(given):
        return there
    elsewhere = open_source(given) if given else source
    if path := elsewhere.tokenizer():
        return path
    raise UserError(f"there is no tokenizer.pkl in {elsewhere.path} or beside it", "Name its folder with --tokenizer")


def _rows(saved: Mapping[str, Tensor]) -> int:
    """Rows of the token tables as they were trained, padding included."""
    return next(len(tensor) for name, tensor in saved.items() if our_name(name) == "embed.weight")


def _optimizer_state(files: Files, paths: Mapping[str, Path], model: GPT, rows: int) -> tuple[dict[str, Tensor], str]:
    """The optimiser's state, or none and the reason."""
    if not files.ranks:
        return {}, "there is no optim_*.pt with it"
    if files.twice:
        return {}, "a rank has two files"
    if sorted(files.ranks) != list(range(len(files.ranks))):
        return {}, f"of its ranks' files there are only those of {', '.join(map(str, sorted(files.ranks)))}"
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    try:
        return read_state([read_tensors(paths[files.ranks[r]]) for r in range(len(files.ranks))], shapes, rows), ""
    except RunsCodeError:
        raise
    except UserError as error:
        return {}, error.problem
    except UnfitError as error:
        return {}, str(error)


def _write(folder: Path, model: GPT, state: dict[str, Tensor], tokenizer: Tokenizer, train: TrainState) -> None:
    save_weights(model.config, model.state_dict(), folder)
    if state:
        save_file(state, folder / states.optimizer_file(0, 1))
    (folder / "train_state.json").write_text(json.dumps(asdict(train)))
    tokenizer.save(folder / "tokenizer")


def _train_state(
    stage: str, tag: str, step: int, meta: Mapping[str, Any], model: GPT, tokenizer: Tokenizer, given: str
) -> TrainState:
    """What training needs to go on: the rates that the dial gives for this model, as if it had been trained here."""
    c, ratio = model.config, BaseConfig.target_param_data_ratio
    planned = scale.tokens(c.shape, ratio)
    batch = meta.get("total_batch_size")
    if type(batch) is not int or not c.seq_len <= batch <= LARGEST_BATCH:
        batch = scale.batch_tokens(c.shape, planned, ratio)
    share = {"base": 1.0, **CHAT_SCALE, "rl": RL_SCALE}[stage]
    rates = scale.rates(c.shape, batch, planned, ratio).scaled(share)
    loop = meta.get("loop_state")
    loop = loop if isinstance(loop, dict) else {}
    measured = {name: _number(meta.get(name)) for name in ("val_bpb", "val_loss")}
    return TrainState(
        stage,
        tag,
        step=step,
        steps=step,
        tokens=step * batch,
        seconds=_number(loop.get("total_training_time")),
        loss=_number(loop.get("smooth_train_loss")),
        # A run of base_train goes on with it only when it has these.
        settings={"depth": c.depth, "arch": c.arch, "max_seq_len": c.seq_len, "tokenizer": tokenizer.hash},
        rates=asdict(rates),
        batch_tokens=batch,
        val={name: value for name, value in measured.items() if value},
        parent=given if local(given) else f"hf://{given.removeprefix('https://huggingface.co/')}",
    )


def _number(value: Any) -> float:
    """A positive finite number, else 0."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if good else 0.0
