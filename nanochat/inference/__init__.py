"""Answers from a model: batched decoding on a KV cache, sampling, and the calculator as a tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat.inference.loading import load_engine
from nanochat.inference.request import Completion, Request, Token
from nanochat.inference.window import fit_conversation, fit_ids

if TYPE_CHECKING:
    from nanochat.inference.engine import Engine

__all__ = ["Completion", "Engine", "Request", "Token", "fit_conversation", "fit_ids", "load_engine"]


def __getattr__(name: str) -> Any:
    if name == "Engine":  # needs torch
        from nanochat.inference.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
