"""When a run ends before its horizon: a signal, a limit of time or money; and the horizon that a time budget makes."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from nanochat.console import INTERRUPTED, UserError, end, interrupted, is_main_rank
from nanochat.train.config import TrainConfig
from nanochat.train.state import TrainState

PATIENCE = 5.0  # seconds that a step may take to end after a stop was asked for
LIMIT = 28.0  # seconds from then until the process ends: spot machines, SLURM and torchrun kill after 30
CALIBRATION_STEPS = 12  # a time budget's horizon follows the speed of this many steps


class Stop:
    """SIGTERM or Ctrl-C: save and leave within LIMIT seconds, whatever is going on; a second Ctrl-C leaves at once.

    The training's thread ends its step, saves and leaves. Where that takes too long (a compiler, a long step, a hanging
    disk), another thread calls `rescue`, which saves the last whole step, and ends the process.
    is_safe: whether the last step is saved, or being saved, so that whatever goes on now can be given up.
    """

    def __init__(self, is_safe: Callable[[], bool], rescue: Callable[[], None]) -> None:
        self.asked = 0.0  # when, 0: not yet
        self._is_safe = is_safe
        self.leaving = threading.Event()  # the training's thread does what is needed
        self._rescue, self._left = rescue, threading.Event()
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._signalled)
        return self

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            # Terminals, schedulers and launchers often send one signal twice: only a later Ctrl-C counts as a second.
            if number == signal.SIGINT and time.monotonic() - self.asked > 1:
                _write("Leaving at once\n")
                end(INTERRUPTED)
            return
        self.ask()
        if self._is_safe():
            raise KeyboardInterrupt

    def ask(self) -> None:
        """Called in any thread when this or another rank is to stop."""
        self.asked = time.monotonic()
        _write("\nStopping: the last step is saved first (Ctrl-C again: at once)\n")
        threading.Thread(target=self._hurry, daemon=True, name="hurry").start()

    def _hurry(self) -> None:
        if not self._left.wait(PATIENCE) and not self.leaving.is_set():
            # Bounded: a second thread waits for this one.
            saver = threading.Thread(target=self._rescue, daemon=True, name="rescue")
            saver.start()
            saver.join(LIMIT - PATIENCE)
            interrupted()
            end(INTERRUPTED)
        if not self._left.wait(max(0.0, self.asked + LIMIT - time.monotonic())):
            _write("There is no time left to save: leaving\n")
            interrupted()
            end(INTERRUPTED)

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _write(text: str) -> None:
    """print is not safe in a signal's handler, and the reader may be gone."""
    if is_main_rank():
        with contextlib.suppress(OSError):
            os.write(1, text.encode())


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
