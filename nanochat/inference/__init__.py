"""Answers from a model: batched decoding on a KV cache, sampling, and the calculator as a tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.inference.loading import load_engine, load_replicas
from nanochat.inference.request import Completion, Request, Token
from nanochat.inference.visible import Visible, visible
from nanochat.inference.window import fit_conversation, fit_ids, newest_exchanges

if TYPE_CHECKING:
    from nanochat.inference.engine import Engine, Stream
    from nanochat.inference.looking import Look, look_inside
    from nanochat.inference.quantize import rounded
    from nanochat.inference.toolcalls import Grammar

__all__ = [
    "Completion",
    "Engine",
    "Grammar",
    "Look",
    "Request",
    "Stream",
    "Token",
    "Visible",
    "fit_conversation",
    "fit_ids",
    "load_engine",
    "load_replicas",
    "look_inside",
    "newest_exchanges",
    "rounded",
    "visible",
]

__getattr__ = lazy(
    __name__,
    {
        "engine": "Engine Stream",
        "looking": "Look look_inside",
        "quantize": "rounded",
        "toolcalls": "Grammar",
    },
)
