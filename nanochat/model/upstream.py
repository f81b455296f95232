"""Weights and config of upstream's checkpoints, as a model of ours.

Two generations: that of 2025 is our classic model, that of 2026 (since March) our modern one without token pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nanochat.console import UserError
from nanochat.model.config import ModelConfig
from nanochat.model.gpt import GPT
from nanochat.reading import shown
from nanochat.scale import Arch

COMPILED = "_orig_mod."  # before the names of a model that was compiled
RENAMED = (
    ("transformer.wte.", "embed."),
    ("transformer.h.", "blocks."),
    ("lm_head.", "head."),
    (".attn.c_proj.", ".attn.out."),
    (".attn.ve_gate.", ".attn.gate."),
    (".attn.c_", ".attn."),
    (".mlp.c_fc.", ".mlp.up."),
    (".mlp.c_proj.", ".mlp.down."),
)
# What upstream's model has where a checkpoint does not say it. Windows came later than the first checkpoints.
DEFAULTS: dict[Arch, dict[str, Any]] = {
    "classic": {"sequence_len": 1024, "vocab_size": 50304},
    "modern": {"sequence_len": 2048, "vocab_size": 32768},
}
SHARED_DEFAULTS = {"n_layer": 12, "n_embd": 768, "window_pattern": "L"}
REQUIRED = ("n_head", "n_kv_head")  # which no shape of a weight tells
PADDING = 64  # token tables have a multiple of this many rows
LARGEST_TABLE = 1 << 26  # positions times channels of a head: the rotary tables are made when a model is loaded
ELSEWHERE = "Take the checkpoint from its source again"


def our_name(name: str) -> str:
    """The name in our model of a weight of upstream's."""
    name = name.removeprefix(COMPILED)
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name


def read_model(tensors: Any, settings: Any, file: str) -> GPT:
    """A model of ours with the weights of `file`, upstream's state_dict, and the config `settings` beside it.

    Weights that are float32 already are not copied. UserError when they do not fit each other or our two architectures.
    """
    weights = _renamed(tensors, file)
    arch: Arch = "modern" if "resid_lambdas" in weights else "classic"
    config = _config(settings, weights, arch, file)
    with torch.device("meta"):
        model = GPT(config)
    needed = model.state_dict()
    _require_same_names(set(needed), set(weights), arch, file)
    fitted = {name: _fitted(weights[name], like, name, file) for name, like in needed.items()}
    if len({tensor.data_ptr() for tensor in fitted.values()}) < len(fitted):
        raise UserError(
            f"weights in {file} share their numbers", "Only models with a head of their own can be imported"
        )
    model.load_state_dict(fitted, assign=True)
    model._set_rope(config.seq_len)  # made on "meta" above, so it has no values yet
    return model.eval()


def _renamed(tensors: Any, file: str) -> dict[str, Tensor]:
    if not isinstance(tensors, Mapping) or not all(isinstance(k, str) for k in tensors):
        raise UserError(f"{file} holds no weights by name", ELSEWHERE)
    weights = {our_name(name): tensor for name, tensor in tensors.items()}
    if len(weights) < len(tensors) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise UserError(f"{file} holds other things than weights, or a weight twice", ELSEWHERE)
    return weights


def _config(settings: Any, weights: dict[str, Tensor], arch: Arch, file: str) -> ModelConfig:
    if not isinstance(settings, dict):
        raise UserError(f"there is no model_config beside {file}", ELSEWHERE)
    given = {**SHARED_DEFAULTS, **DEFAULTS[arch], **settings}
    if unknown := sorted(given.keys() - SHARED_DEFAULTS.keys() - DEFAULTS[arch].keys() - set(REQUIRED)):
        problem = f"the model of {file} has settings that neither of our architectures has: {_listed(unknown)}"
        raise UserError(problem, "Only checkpoints of upstream's own models can be imported")
    if lacking := [name for name in REQUIRED if name not in given]:
        raise UserError(f"the model_config beside {file} lacks {', '.join(lacking)}", ELSEWHERE)
    windows = given.pop("window_pattern")
    for name, value in given.items():
        if type(value) is not int or value < 1:
            raise UserError(f"{name} is {str(value)[:50]!r} in the model_config beside {file}", ELSEWHERE)
    if not isinstance(windows, str):
        raise UserError(f"window_pattern is {str(windows)[:50]!r} in the model_config beside {file}", ELSEWHERE)
    # Compared with the weights before anything is made from them: the numbers may be absurd.
    layers = sum(name.startswith("blocks.") and name.endswith(".attn.q.weight") for name in weights)
    table = weights.get("embed.weight")
    rows, width = table.shape if table is not None and table.ndim == 2 else (0, 0)
    for name, there in (("n_layer", layers), ("n_embd", width)):
        if given[name] != there:
            raise UserError(f"{name} is {given[name]} beside {file}, whose weights have {there}", ELSEWHERE)
    tables = {len(tensor) if tensor.ndim else 0 for name, tensor in weights.items() if _is_table(name)}
    if rows not in (given["vocab_size"], -(-given["vocab_size"] // PADDING) * PADDING) or tables != {rows}:
        counts = ", ".join(map(str, sorted(tables)))
        raise UserError(
            f"vocab_size is {given['vocab_size']} beside {file}, whose tables have {counts} rows", ELSEWHERE
        )
    if given["sequence_len"] * width > LARGEST_TABLE * given["n_head"]:
        raise UserError(f"sequence_len is {given['sequence_len']} beside {file}, more than can be held", ELSEWHERE)
    modern = arch == "modern"
    try:
        return ModelConfig(
            depth=layers,
            width=width,
            heads=given["n_head"],
            kv_heads=given["n_kv_head"],
            vocab_size=given["vocab_size"],
            seq_len=given["sequence_len"],
            arch=arch,
            rope_base=100000.0 if modern else 10000.0,
            windows=windows.upper(),
            rope_dtype="" if modern else "bfloat16",
        )
    except UserError as error:
        raise UserError(f"the model of {file} cannot be ours: {error.problem}", ELSEWHERE) from None


def _require_same_names(needed: set[str], there: set[str], arch: Arch, file: str) -> None:
    if lacking := sorted(needed - there):
        what = f"{file} lacks {_listed(lacking)}"
    elif other := sorted(there - needed):
        what = f"{file} has weights that our {arch} model has not: {_listed(other)}"
    else:
        return
    raise UserError(
        what,
        "Only models of two generations can be imported: that of 2025, and that of mid-March 2026 and later",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(shown(name)[1:-1] for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )


def _fitted(tensor: Tensor, like: Tensor, name: str, file: str) -> Tensor:
    """The tensor in float32, without the rows that pad a vocabulary to a multiple of 64."""
    if not tensor.is_floating_point():
        raise UserError(f"{name} in {file} holds {tensor.dtype} instead of floating-point numbers", ELSEWHERE)
    if _is_table(name):
        tensor = tensor[: like.size(0)]
    if tensor.shape != like.shape:
        raise UserError(f"{name} in {file} has the shape {list(tensor.shape)} instead of {list(like.shape)}", ELSEWHERE)
    fitted = tensor.detach().float().contiguous()
    if not torch.isfinite(fitted).all():
        raise UserError(f"{name} in {file} holds NaN or infinite numbers", ELSEWHERE)
    return fitted


def _is_table(name: str) -> bool:
    """Whether a weight has a row for every token."""
    return name in ("embed.weight", "head.weight") or name.startswith("value_embeds.")
