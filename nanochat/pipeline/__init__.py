"""The stages in order, each a command of its own, with resume; plans of them; and sweeps over depths."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.pipeline.settings import SpeedrunConfig
from nanochat.pipeline.speedrun import speedrun

if TYPE_CHECKING:
    from nanochat.pipeline.doctor import DoctorConfig, examine
    from nanochat.pipeline.miniseries import MiniseriesConfig, run_miniseries
    from nanochat.pipeline.plan.config import PlanConfig
    from nanochat.pipeline.plan.planning import run_plan

__all__ = [
    "DoctorConfig",
    "MiniseriesConfig",
    "PlanConfig",
    "SpeedrunConfig",
    "examine",
    "run_miniseries",
    "run_plan",
    "speedrun",
]

__getattr__ = lazy(
    __name__,
    {
        "doctor": "DoctorConfig examine",
        "miniseries": "MiniseriesConfig run_miniseries",
        "plan.config": "PlanConfig",
        "plan.planning": "run_plan",
    },
)
