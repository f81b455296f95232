"""The optimiser: Muon for matrices, AdamW for the rest, and their schedules. Doors: Optimizer, Schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanochat.optim.schedule import Schedule

if TYPE_CHECKING:
    from nanochat.optim.optimizer import Optimizer

__all__ = ["Optimizer", "Schedule"]


def __getattr__(name: str) -> Any:
    if name == "Optimizer":
        from nanochat.optim.optimizer import Optimizer

        return Optimizer
    raise AttributeError(name)
