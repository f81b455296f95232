"""Matrix products in float8, by torchao."""

from __future__ import annotations

import torch
from torch import nn

from nanochat.console import UserError

SMALLEST = 128  # matrices with a side below this lose more by converting than they gain


def use_float8(model: nn.Module, device: torch.device) -> None:
    """Swap the model's large Linear layers, in place; parameters keep their names. Not run on a GPU yet."""
    if device.type != "cuda" or torch.version.hip or torch.cuda.get_device_capability(device) < (8, 9):
        raise UserError(
            f"--fp8 needs an NVIDIA GPU with float8 units (H100, L4, RTX 40 or newer), and this is {device.type}",
            "Leave --fp8 out",
        )
    try:
        from torchao.float8 import convert_to_float8_training
    except ImportError as error:
        raise UserError(f"--fp8 needs torchao: {error}", "pip install torchao") from None

    def large(module: nn.Module, name: str) -> bool:
        if not isinstance(module, nn.Linear) or name == "head":  # the loss takes the head's weight itself
            return False
        sides = (module.in_features, module.out_features)
        return min(sides) >= SMALLEST and all(side % 16 == 0 for side in sides)

    convert_to_float8_training(model, module_filter_fn=large)
