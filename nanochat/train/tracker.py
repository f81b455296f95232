"""Where a training's numbers go: metrics.jsonl, and Weights & Biases when asked for. Neither ends a training."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from nanochat.console import UserError, is_main_rank, warn
from nanochat.metrics import MetricsWriter
from nanochat.train.state import TrainState

TRACKED = {"step", "eval", "summary"}


class Tracker(MetricsWriter):
    """Writes metrics.jsonl, and logs the numbers to the run named by --run or WANDB_RUN ("dummy": to none).

    A failure is told once. Rows that the disk does not take are written later.
    """

    def __init__(self, path: Path, run: str, state: TrainState, settings: dict[str, Any]):
        super().__init__(path)
        self._told = False
        name = run or os.environ.get("WANDB_RUN", "")
        self._wandb = _start(name, state, settings, asked=bool(run)) if name not in ("", "dummy") else None

    def write(self, kind: str, **values: Any) -> None:
        try:
            super().write(kind, **values)
        except UserError as error:
            if not self._told:
                self._told = True
                warn(f"warning: {error.problem}: training goes on")
        if self._wandb is not None and kind in TRACKED:
            numbers = {f"{kind}/{k}": v for k, v in values.items() if isinstance(v, int | float)}
            try:
                self._wandb.log(numbers, step=values.get("step", values.get("steps")))
            except Exception as error:
                self._wandb = None
                _tell(error)

    def finish(self) -> None:
        if self._wandb is not None:
            try:
                self._wandb.finish()
            except Exception as error:
                _tell(error)


def _start(name: str, state: TrainState, settings: dict[str, Any], asked: bool) -> Any:
    """A run that goes on under its id when the training does."""
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
    state.wandb = state.wandb or secrets.token_hex(4)
    facts = {"project": "nanochat", "name": f"{name}-{state.stage}", "group": name, "config": settings}
    try:
        return wandb.init(id=state.wandb, resume="allow", **facts)
    except Exception as error:
        _tell(error)
        return None


def _tell(error: Exception) -> None:
    warn(f"warning: Weights & Biases failed, logging to metrics.jsonl only: {error}")
