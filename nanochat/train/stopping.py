"""When a run ends before its horizon: a signal, a limit of time or money; and the horizon that a time budget makes."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections import deque
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from nanochat.console import UserError, is_main_rank
from nanochat.train.config import TrainConfig
from nanochat.train.state import TrainState

CALIBRATION_STEPS = 12  # a time budget's horizon follows the speed of this many steps


class Stop:
    """Ctrl-C or SIGTERM: finish the step or stop waiting for it, save, leave. A second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.asked = 0.0  # when, 0: not yet
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            # Terminals, schedulers and launchers often send one signal twice: only a later Ctrl-C counts as a second.
            if number == signal.SIGINT and time.monotonic() - self.asked > 1:
                raise KeyboardInterrupt
            return
        self.asked = time.monotonic()
        if is_main_rank():
            with contextlib.suppress(OSError):  # print is not safe in a handler, and the reader may be gone
                os.write(1, b"\nStopping after this step; the checkpoint is saved first (Ctrl-C again: at once)\n")

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def over(config: TrainConfig, s: TrainState, seconds: float) -> UserError | None:
    """The error to raise when this training has used up its time or money."""
    hours = seconds / 3600
    if config.max_hours and hours >= config.max_hours:
        limit = f"--max_hours={config.max_hours:g}"
    elif config.max_dollars and hours * config.price_per_hour >= config.max_dollars:
        limit = f"--max_dollars={config.max_dollars:g}"
    else:
        return None
    where = f"at step {s.step} of {s.steps}, which is saved" if s.step else "before any step"
    return UserError(f"{limit} is reached {where}", "Go on with --resume and a higher limit")


class Calibration:
    """Turns a time budget into a number of steps: seconds left over seconds per step. It goes on measuring, since the
    speed of a shared machine changes."""

    def __init__(self, budget: float):
        self.budget = budget
        self.times: deque[float] = deque(maxlen=CALIBRATION_STEPS)

    def horizon(self, s: TrainState, took: float) -> int:
        """Total steps. All ranks call this after the same steps and use the first one's answer."""
        self.times.append(took)
        if len(self.times) < CALIBRATION_STEPS:
            return max(s.steps, s.step + CALIBRATION_STEPS)
        if s.step % CALIBRATION_STEPS:
            return s.steps
        left = 0.97 * self.budget - s.seconds  # 3%: the last validation and checkpoint
        n = s.step + max(0, int(left / statistics.median(self.times)))
        if dist.is_initialized():
            shared = torch.tensor(n).to("cuda" if dist.get_backend() == "nccl" else "cpu")
            dist.broadcast(shared, 0)
            n = int(shared)
        return n
