"""Upstream's checkpoints become ours: weights, config, tokenizer, and the optimiser's state where there is one.

Nothing in the files is run: tensors come through torch's safe unpickler, the tokenizer through a reader of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nanochat.checkpoint.pickles import RunsCodeError
from nanochat.checkpoint.torchfile import read_tensors
from nanochat.checkpoint.upstream import Files, read_meta, steps_among
from nanochat.console import UserError, say
from nanochat.hub.settling import Arrival, require_fit, require_free, settle, stage_of_path
from nanochat.hub.source import LISTED, Source, local, open_source
from nanochat.hub.tokenizers import read_tokenizer
from nanochat.model import GPT
from nanochat.model.upstream import our_name, read_model
from nanochat.optim.upstream import UnfitError, read_state


def import_checkpoint(
    given: str,
    stage: str = "",
    tag: str = "",
    step: int = -1,
    tokenizer: str = "",
    optimizer: bool = True,
    parent: str = "",
) -> Path:
    """Make a checkpoint of ours from one of upstream's, and return its folder.

    given: a folder with its files, or a Hub repository (see `open_source`). stage, tag: "" for what the folder's path
    says. step: -1 for the newest. tokenizer: where tokenizer.pkl is, when it is not with the checkpoint. optimizer:
    whether to take the optimiser's state, too. parent: what the checkpoint says it is from, when not `given`. An
    earlier run of the tag is set aside. UserError for files that do not
    fit, are damaged, or would run code; then nothing is written.
    """
    source = open_source(given)
    step, files = _choose(source, step)
    tag = tag or source.path.name
    names = [files.model, files.meta, *(files.ranks.values() if optimizer else ())]
    stage = stage or stage_of_path(source)
    if stage:
        require_free(source, stage, tag)
    paths = dict(zip(names, source.take(names), strict=True))
    meta = read_meta(paths[files.meta])
    if not stage:
        stage = _stage_of_meta(meta, source)
        require_free(source, stage, tag)
    saved = read_tensors(paths[files.model])
    model = read_model(saved, meta.get("model_config"), str(paths[files.model]))
    taken = _tokenizer_path(source, tokenizer)
    found = read_tokenizer(taken)
    say(f"The tokenizer is that of {taken}")
    require_fit(model.config.vocab_size, found)
    state, why = _optimizer_state(files, paths, model, _rows(saved)) if optimizer else ({}, "it was not asked for")
    folder = settle(Arrival(stage, tag, step, model, found, parent or given, meta, state))
    say("The optimiser's state came with it" if state else f"Without the optimiser's state: {why}")
    return folder


def _choose(source: Source, step: int) -> tuple[int, Files]:
    names = source.names()
    found = steps_among(names)
    if not found:
        if "config.json" in names:
            raise UserError(f"{source.path} has config.json, but no model_NNNNNN.pt", "Try import_hf instead")
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
