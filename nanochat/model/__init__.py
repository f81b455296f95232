"""The GPT: config, modules, attention, KV cache, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.model.config import ModelConfig

if TYPE_CHECKING:
    from nanochat.model.attention import Backend, Wanted, choose_attention
    from nanochat.model.float8 import (
        ACTIVATION,
        Rounded,
        float8_linear,
        product,
        require_float8,
        round_weights,
        to_float8,
    )
    from nanochat.model.gpt import GPT
    from nanochat.model.loss import chunk_rows, linear_cross_entropy
    from nanochat.model.weights import load, read_config, require_vocabulary, save_weights

__all__ = [
    "ACTIVATION",
    "GPT",
    "Backend",
    "ModelConfig",
    "Rounded",
    "Wanted",
    "choose_attention",
    "chunk_rows",
    "float8_linear",
    "linear_cross_entropy",
    "load",
    "product",
    "read_config",
    "require_float8",
    "require_vocabulary",
    "round_weights",
    "save_weights",
    "to_float8",
]

__getattr__ = lazy(
    __name__,
    {
        "attention": "Backend Wanted choose_attention",
        "float8": "ACTIVATION Rounded float8_linear product require_float8 round_weights to_float8",
        "gpt": "GPT",
        "loss": "chunk_rows linear_cross_entropy",
        "weights": "load read_config require_vocabulary save_weights",
    },
)
