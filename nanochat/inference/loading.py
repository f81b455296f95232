"""Load the engine of a named checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat import checkpoint, model
from nanochat.console import UserError
from nanochat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from nanochat.checkpoint import Manifest
    from nanochat.inference.engine import Engine
    from nanochat.inference.quantize import Quantize


def load_engine(
    stage: str,
    tag: str | None = None,
    step: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize = "",
    max_batch: int = 32,
) -> tuple[Engine, Manifest]:
    """The newest whole checkpoint of a stage, or the one named, on the device, ready to answer."""
    folder = checkpoint.find(stage, tag, step)  # before torch is imported: a wrong name is reported at once
    manifest = checkpoint.verify(folder, hashes=False)

    from nanochat import machine

    here = machine.setup(device, dtype)
    return engine_of(folder, here.device, here.dtype, quantize, max_batch), manifest


def engine_of(folder: Path, device: torch.device, dtype: torch.dtype, quantize: Quantize, max_batch: int) -> Engine:
    """The engine of a checkpoint's folder, on a machine that is set up."""
    from nanochat.inference.engine import Engine
    from nanochat.inference.quantize import ready

    gpt = ready(model.load(folder, device, dtype), quantize)
    return Engine(gpt, Tokenizer.load(folder / "tokenizer"), max_batch, quantize)


def load_replicas(
    count: int,
    stage: str,
    tag: str | None = None,
    step: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: Quantize = "",
    max_batch: int = 32,
) -> tuple[list[Engine], Manifest]:
    """`count` engines of the same checkpoint: one on the device, or one on each of the first GPUs."""
    if count < 1:
        raise UserError(f"{count} GPUs cannot answer", "Leave --num-gpus out, or give a positive number")
    devices = [device]
    if count > 1:
        checkpoint.find(stage, tag, step)  # before torch is imported
        import torch

        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device not in ("auto", "cuda"):
            raise UserError(f"{count} GPUs were asked for, and --device={device}", "Leave one of the two out")
        if found < count:
            raise UserError(f"this machine has {found} CUDA GPUs, not {count}", "Give a smaller --num-gpus")
        devices = [f"cuda:{number}" for number in range(count)]
    loaded = [load_engine(stage, tag, step, one, dtype, quantize, max_batch) for one in devices]
    return [engine for engine, _ in loaded], loaded[0][1]
