"""Which runner computes a model's tokens."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nanochat.console import UserError
from nanochat.inference.native_runner import DTYPES, NativeRunner
from nanochat.inference.torch_runner import TorchRunner
from nanochat.native import level, native

if TYPE_CHECKING:
    from nanochat.inference.quantize import Quantize
    from nanochat.inference.runner import Runner
    from nanochat.model import GPT


def runner_for(model: GPT, quantize: Quantize = "") -> Runner:
    """Native code on a CPU that has its instructions (see NANOCHAT_CPU), torch elsewhere."""
    chosen = level() if model.device.type == "cpu" and model.dtype in DTYPES else None
    if chosen:
        return NativeRunner(model, chosen, quantize)
    if quantize:
        raise UserError(f"weights in eight bits cannot be used here: {_why_not(model)}", "Leave --quantize out")
    return TorchRunner(model)


def _why_not(model: GPT) -> str:
    if model.device.type != "cpu":
        return f"the native code that reads them is for CPUs, and the model is on {model.device.type}"
    if model.dtype not in DTYPES:
        return f"the native code computes in float32 and bfloat16, not in {str(model.dtype).removeprefix('torch.')}"
    if native() is None:
        return "nanochat was installed without its native code, since there was no C++ compiler"
    return "NANOCHAT_CPU asks for torch" if os.environ.get("NANOCHAT_CPU") else "the processor has no AVX2"
