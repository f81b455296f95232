"""Load the engine of a named checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat import checkpoint, model
from nanochat.tokenizer import Tokenizer

if TYPE_CHECKING:
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
    from nanochat.inference.engine import Engine
    from nanochat.inference.quantize import ready

    here = machine.setup(device, dtype)
    gpt = ready(model.load(folder, here.device, here.dtype), quantize)
    return Engine(gpt, Tokenizer.load(folder / "tokenizer"), max_batch, quantize), manifest
