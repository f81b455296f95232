"""The GPT: config, modules, KV cache. Doors: ModelConfig, GPT, KVCache, load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat.model.config import ModelConfig

if TYPE_CHECKING:
    from nanochat.model.cache import KVCache
    from nanochat.model.gpt import GPT
    from nanochat.model.weights import load

__all__ = ["GPT", "KVCache", "ModelConfig", "load"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: only those who use a model pay for it.
    if name == "GPT":
        from nanochat.model.gpt import GPT

        return GPT
    if name == "KVCache":
        from nanochat.model.cache import KVCache

        return KVCache
    if name == "load":
        from nanochat.model.weights import load

        return load
    raise AttributeError(name)
