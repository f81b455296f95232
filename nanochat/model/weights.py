"""Load a model from a checkpoint folder, and save it to one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.model.config import ModelConfig
from nanochat.model.gpt import GPT
from nanochat.reading import read_json
from nanochat.tokenizer import read_vocab_size

WEIGHTS = "model.safetensors"
REMEDY = "Take the checkpoint from its source again"


def read_config(folder: Path) -> ModelConfig:
    try:
        values: dict[str, Any] = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / 'config.json'}: {error}", REMEDY) from None
    return ModelConfig.from_dict(values)


def require_vocabulary(config: ModelConfig, vocab_size: int, where: Path) -> None:
    """UserError when a tokenizer with so many tokens is not the model's."""
    if config.vocab_size != vocab_size:
        raise UserError(
            f"the tokenizer has {vocab_size:,} tokens, and the model in {where} {config.vocab_size:,}",
            "Use the tokenizer that the model was trained with",
        )


def load(folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> GPT:
    """The model of a checkpoint folder, in eval mode; `dtype` is the compute dtype.

    Nothing is loaded before all files were verified, and the tensors' names, shapes and types were compared with those
    that the config asks for: whoever wrote the folder may have written a manifest that fits.
    """
    folder = Path(folder)
    manifest = checkpoint.verify(folder)
    config = read_config(folder)
    require_vocabulary(config, read_vocab_size(folder / "tokenizer"), folder)
    with torch.device("meta"), _Unfilled():  # takes no memory
        model = GPT(config, dtype)
    needed = {name: checkpoint.Stored("F32", tuple(t.shape)) for name, t in model.state_dict().items()}
    checkpoint.require_tensors(folder / WEIGHTS, needed)
    for name in manifest.files:
        if name.endswith(".safetensors") and name != WEIGHTS:  # for who goes on training it
            checkpoint.require_parts(folder / name, needed)
    try:
        weights = load_file(folder / WEIGHTS)
        model.load_state_dict(weights, assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"cannot load {folder / WEIGHTS}: {error}", REMEDY) from None
    model._set_rope(config.seq_len)  # made on "meta" above, so it has no values yet
    model = model.to(device)
    return model.eval()


class _Unfilled(TorchFunctionMode):
    """Modules are not filled with random numbers. On "meta" that does nothing, but imports torch.compile, a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def save_weights(config: ModelConfig, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write config.json and model.safetensors into a new checkpoint's folder. tensors: the model's state_dict."""
    (folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n")
    contiguous = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
    save_file(contiguous, folder / "model.safetensors")
