"""The optimiser: Muon for matrices, AdamW for the rest, and their schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.optim.schedule import Schedule

if TYPE_CHECKING:
    from nanochat.optim.optimizer import Optimizer
    from nanochat.optim.saved import Saved

__all__ = ["Optimizer", "Saved", "Schedule"]

__getattr__ = lazy(__name__, {"optimizer": "Optimizer", "saved": "Saved"})
