"""Look at the machine before money is spent on it: one line a check, with what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.pipeline.doctor.config import DoctorConfig

if TYPE_CHECKING:
    from nanochat.pipeline.doctor.checks import examine

__all__ = ["DoctorConfig", "examine"]

__getattr__ = lazy(__name__, {"checks": "examine"})
