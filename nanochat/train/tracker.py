"""Weights & Biases, when asked for: the same numbers as metrics.jsonl, live."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nanochat.console import UserError, is_main_rank, warn
from nanochat.metrics import MetricsWriter

TRACKED = {"step", "eval", "summary"}


class Tracker(MetricsWriter):
    """Writes metrics.jsonl, and logs the numbers to the run named by --run or WANDB_RUN ("dummy": to none)."""

    def __init__(self, path: Path, run: str, stage: str, settings: dict[str, Any]):
        super().__init__(path)
        name = run or os.environ.get("WANDB_RUN", "")
        self._wandb = _start(name, stage, settings, asked=bool(run)) if name not in ("", "dummy") else None

    def write(self, kind: str, **values: Any) -> None:
        super().write(kind, **values)
        if self._wandb is not None and kind in TRACKED:
            numbers = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
            self._wandb.log(numbers, step=values.get("step", values.get("steps")))

    def finish(self) -> None:
        if self._wandb is not None:
            self._wandb.finish()


def _start(name: str, stage: str, settings: dict[str, Any], asked: bool) -> Any:
    if not is_main_rank():
        return None
    try:
        import wandb
    except ImportError:
        if asked:
            raise UserError(
                "--run needs the wandb package, which is not installed", "Run pip install wandb, or leave --run out"
            ) from None
        # A name left in the environment must not cost a night of training.
        warn("WANDB_RUN is set, but wandb is not installed: logging to metrics.jsonl only (pip install wandb)")
        return None
    return wandb.init(project="nanochat", name=f"{name}-{stage}", group=name, config=settings)
