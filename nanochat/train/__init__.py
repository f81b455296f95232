"""One training loop for base, mid and sft, and RL beside it. Doors: BaseConfig, ChatConfig, RLConfig, train_base,
train_chat, train_rl."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat.train.config import BaseConfig, ChatConfig, RLConfig

if TYPE_CHECKING:
    from nanochat.train.base import train_base
    from nanochat.train.chat import train_chat
    from nanochat.train.rl import train_rl

__all__ = ["BaseConfig", "ChatConfig", "RLConfig", "train_base", "train_chat", "train_rl"]


def __getattr__(name: str) -> Any:
    if name == "train_base":
        from nanochat.train.base import train_base

        return train_base
    if name == "train_chat":
        from nanochat.train.chat import train_chat

        return train_chat
    if name == "train_rl":
        from nanochat.train.rl import train_rl

        return train_rl
    raise AttributeError(name)
