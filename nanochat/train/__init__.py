"""One training loop for base, mid and sft. Doors: BaseConfig, ChatConfig, train_base, train_chat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat.train.config import BaseConfig, ChatConfig

if TYPE_CHECKING:
    from nanochat.train.base import train_base
    from nanochat.train.chat import train_chat

__all__ = ["BaseConfig", "ChatConfig", "train_base", "train_chat"]


def __getattr__(name: str) -> Any:
    if name == "train_base":
        from nanochat.train.base import train_base

        return train_base
    if name == "train_chat":
        from nanochat.train.chat import train_chat

        return train_chat
    raise AttributeError(name)
