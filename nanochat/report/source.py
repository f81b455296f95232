"""What every section is made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nanochat.report.runs import TRAINING, Runs
from nanochat.report.timing import Stage, stages
from nanochat.report.values import number

STAGES = tuple(TRAINING)


@dataclasses.dataclass(frozen=True)
class Source:
    """price: dollars per hour, if known. pictured: whether loss.png is there."""

    runs: Runs
    stages: Sequence[Stage]
    price: float | None
    pictured: bool = False

    @classmethod
    def of(cls, runs: Runs, price: float | None, pictured: bool = False) -> Source:
        """price: None for what a training was told."""
        if price is None:
            told = (number(runs.settings(stage).get("price_per_hour")) for stage in STAGES)
            price = next((hourly for hourly in told if hourly and hourly > 0), None)
        return cls(runs, stages(runs), price, pictured)

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def trained(self) -> list[str]:
        """Stages whose training left metrics."""
        return [stage for stage in STAGES if TRAINING[stage] in self.runs.records]
