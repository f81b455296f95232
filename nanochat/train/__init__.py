"""One `Run` for base, mid, sft and rl; they differ in how a step is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.train.config import (
    BaseConfig,
    ChatConfig,
    RLConfig,
    Tracking,
    changed_settings,
    check_config,
    fingerprint,
    horizon,
    parse_duration,
    tracker_of,
)

if TYPE_CHECKING:
    from nanochat.train.base import make_plan, text_tokens, train_base
    from nanochat.train.chat import train_chat
    from nanochat.train.equip import make_loss, muon_dtype
    from nanochat.train.fitting import choose_rows
    from nanochat.train.memory import Memory, predict
    from nanochat.train.rl import train_rl
    from nanochat.train.step import LossScale, Stepper
    from nanochat.train.tuning import fastest_sizes, suited, usual_sizes

__all__ = [
    "BaseConfig",
    "ChatConfig",
    "LossScale",
    "Memory",
    "RLConfig",
    "Stepper",
    "Tracking",
    "changed_settings",
    "check_config",
    "choose_rows",
    "fastest_sizes",
    "fingerprint",
    "horizon",
    "make_loss",
    "make_plan",
    "muon_dtype",
    "parse_duration",
    "predict",
    "suited",
    "text_tokens",
    "tracker_of",
    "train_base",
    "train_chat",
    "train_rl",
    "usual_sizes",
]

__getattr__ = lazy(
    __name__,
    {
        "base": "make_plan text_tokens train_base",
        "chat": "train_chat",
        "equip": "make_loss muon_dtype",
        "fitting": "choose_rows",
        "memory": "Memory predict",
        "rl": "train_rl",
        "step": "LossScale Stepper",
        "tuning": "fastest_sizes suited usual_sizes",
    },
)
