"""Which runner computes a model's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.console import UserError
from nanochat.inference.torch_runner import TorchRunner

if TYPE_CHECKING:
    from nanochat.inference.quantize import Quantize
    from nanochat.inference.runner import Runner
    from nanochat.model import GPT


def runner_for(model: GPT, quantize: Quantize = "") -> Runner:
    """The fastest one for this model on this machine."""
    if quantize:
        raise UserError("matrices in eight bits cannot be used yet", "Leave --quantize out")
    return TorchRunner(model)
