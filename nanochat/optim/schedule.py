"""Learning rate, momentum and weight decay as functions of the step. Figures: upstream nanochat."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Warm-up, constant, linear warm-down to `final` of the peak, over `steps` steps."""

    steps: int
    warmup: int = 40
    warmdown: float = 0.65  # share of the run
    final: float = 0.05

    @classmethod
    def pretraining(cls, steps: int) -> Schedule:
        return cls(steps, warmup=min(40, steps // 10))

    @classmethod
    def finetuning(cls, steps: int) -> Schedule:
        """Hardly any warm-up, since the optimiser's state is carried over; linear down to 0."""
        return cls(steps, warmup=min(5, steps // 10), warmdown=0.8, final=0.0)

    @property
    def steady(self) -> int:
        """Steps before the warm-down."""
        return self.steps - round(self.warmdown * self.steps)

    def rate(self, step: int) -> float:
        """Multiplier of the peak learning rate at `step` (0-based)."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        left = (self.steps - step) / max(1, round(self.warmdown * self.steps))
        return 1.0 if left >= 1 else max(0.0, left) * (1 - self.final) + self.final

    def momentum(self, step: int) -> float:
        """Muon's momentum: 0.85 -> 0.97 over the first 400 steps (a third of a short run), down to 0.90 at the end."""
        rise = min(400, max(1, self.steps // 3))
        fall_from = self.steady
        m = 0.85 + (0.97 - 0.85) * min(1.0, step / rise)
        if step > fall_from:
            m = min(m, 0.97 - (0.97 - 0.90) * (step - fall_from) / max(1, self.steps - fall_from))
        return m

    def decay(self, step: int) -> float:
        """Multiplier of the weight decay: cosine to 0."""
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, self.steps))))
