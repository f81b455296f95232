"""Load a model from a checkpoint folder, and save it to one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.model.config import ModelConfig
from nanochat.model.gpt import GPT


def read_config(folder: Path) -> ModelConfig:
    try:
        values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {folder / 'config.json'}: {error}", "Take the checkpoint from its source again"
        ) from None
    return ModelConfig.from_dict(values)


def load(folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> GPT:
    """The model of a checkpoint folder, verified, in eval mode; `dtype` is the compute dtype."""
    folder = Path(folder)
    checkpoint.verify(folder)
    config = read_config(folder)
    with torch.device("meta"):
        model = GPT(config, dtype)
    try:
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict(weights, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{folder / 'model.safetensors'} does not fit its config.json: {error}", "Take another checkpoint"
        ) from None
    model._set_rope(config.seq_len)  # made on "meta" above, so it has no values yet
    model = model.to(device)
    return model.eval()


def save_weights(model: GPT, folder: Path) -> None:
    """Write config.json and model.safetensors into a new checkpoint's folder."""
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1) + "\n")
    save_file(
        {k: v.detach().contiguous().cpu() for k, v in model.state_dict().items()},
        folder / "model.safetensors",
    )
