"""How good a model is: bits per byte, CORE, chat tasks, ChatCORE.

Doors: `bits_per_byte`, `text_bpb`, `evaluate_core`, `evaluate_task`, `chatcore`, `EvalResult`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat.eval.results import EvalResult, Score, TaskResult, describe_checkpoint, wilson

if TYPE_CHECKING:
    from nanochat.eval.bpb import bits_per_byte, text_batches, text_bpb
    from nanochat.eval.chat import chatcore, evaluate_task
    from nanochat.eval.core import evaluate_core

__all__ = [
    "EvalResult",
    "Score",
    "TaskResult",
    "bits_per_byte",
    "chatcore",
    "describe_checkpoint",
    "evaluate_core",
    "evaluate_task",
    "text_batches",
    "text_bpb",
    "wilson",
]

_TORCH_DOORS = {
    "bits_per_byte": "bpb",
    "text_batches": "bpb",
    "text_bpb": "bpb",
    "chatcore": "chat",
    "evaluate_task": "chat",
    "evaluate_core": "core",
}


def __getattr__(name: str) -> Any:
    """Import the entry points that need torch on first use."""
    if name not in _TORCH_DOORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nanochat.eval.{_TORCH_DOORS[name]}"), name)
