"""When a run ends before its horizon: a signal, a limit of time or money; and the horizon that a time budget makes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from nanochat.console import INTERRUPTED, LimitReachedError, end, interrupted, is_main_rank, within
from nanochat.machine import host_group
from nanochat.train.config import TrainConfig
from nanochat.train.state import TrainState

PATIENCE = 5.0  # seconds that a step may take to end after a stop was asked for
LIMIT = 28.0  # seconds from then until the process ends: spot machines, SLURM and torchrun kill after 30
CALIBRATION_STEPS = 12  # a time budget's horizon follows the speed of this many steps


class Stop:
    """SIGTERM or Ctrl-C: save and leave within LIMIT seconds; a second Ctrl-C leaves at once.

    The training's thread ends its step, saves and leaves. Where that takes too long (a compiler, a long step, a hanging
    disk), another thread calls `rescue`, which saves the last whole step, then `tell`, and ends the process.
    is_safe: whether the last step is saved, or being saved, so that whatever goes on now can be given up.
    A signal that the caller of this process ignores (nohup, `command &`) stays ignored.
    """

    def __init__(self, is_safe: Callable[[], bool], rescue: Callable[[], None], tell: Callable[[], None]) -> None:
        self.asked = 0.0  # when, 0: not yet
        self.leaving = threading.Event()  # the training's thread does what is needed
        self._is_safe, self._rescue, self._tell = is_safe, rescue, tell
        self._left = threading.Event()
        self._first = threading.Lock()  # taken by who asks first
        self._raised = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread gets signals: they are the caller's business
        # A thread reads the signals from a socket: Python's handlers do not run while the main thread is in C code.
        self._heard, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        threading.Thread(target=self._listen, daemon=True, name="signals").start()
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._old[number] = signal.signal(number, self._signalled)
        self._old_wakeup = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        return self

    def _listen(self) -> None:
        while numbers := self._heard.recv(64):
            for number in numbers:
                # Terminals, schedulers and launchers often send one signal twice: only a later Ctrl-C is a second one.
                if self.asked and number == signal.SIGINT and time.monotonic() - self.asked > 1:
                    within(1.0, lambda: _write("Leaving at once\n"))
                    end(INTERRUPTED)
                if number in self._old:
                    self.ask()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.ask()
        if not self._raised and not self.leaving.is_set() and self._is_safe():
            self._raised = True
            raise KeyboardInterrupt

    def ask(self) -> None:
        """Called in any thread when this or another rank is to stop."""
        if self._first.acquire(blocking=False):
            self.asked = time.monotonic()
            threading.Thread(target=self._hurry, daemon=True, name="hurry").start()
            text = "\nStopping: the last step is saved first (Ctrl-C again: at once)\n"
            threading.Thread(target=_write, args=(text,), daemon=True).start()

    def _hurry(self) -> None:
        if not self._left.wait(PATIENCE) and not self.leaving.is_set():
            within(LIMIT - PATIENCE, self._rescue)
        elif self._left.wait(max(0.0, self.asked + LIMIT - time.monotonic())):
            return
        within(1.0, self._tell)
        within(1.0, interrupted)
        end(INTERRUPTED)

    def __exit__(self, *_: object) -> None:
        self._left.set()
        for number, handler in self._old.items():
            signal.signal(number, handler)
        if self._old:
            signal.set_wakeup_fd(self._old_wakeup)
            self._wakeup.close()  # ends the thread that listens


def _write(text: str) -> None:
    """Not print, whose lock the training's thread may hold; the reader may be gone."""
    if is_main_rank():
        with contextlib.suppress(OSError):
            os.write(1, text.encode())


def over(config: TrainConfig, s: TrainState, seconds: float) -> LimitReachedError | None:
    """The error to raise when this training has used up its time or money."""
    hours = seconds / 3600
    if config.max_hours and hours >= config.max_hours:
        limit = f"--max_hours={config.max_hours:g}"
    elif config.max_dollars and hours * config.price_per_hour >= config.max_dollars:
        limit = f"--max_dollars={config.max_dollars:g}"
    else:
        return None
    where = f"at step {s.step} of {s.steps}" if s.step else "before any step"
    return LimitReachedError(f"{limit} is reached {where}", "Go on by the same command with a higher limit")


class Calibration:
    """Turns a time budget into a number of steps: seconds left over seconds per step. It goes on measuring, since the
    speed of a shared machine changes."""

    def __init__(self, budget: float):
        self.budget = budget
        self.times: deque[float] = deque(maxlen=CALIBRATION_STEPS)

    def horizon(self, s: TrainState, took: float) -> int:
        """Total steps. All ranks call this after the same steps and use the first one's answer."""
        self.times.append(took)
        few = len(self.times) < CALIBRATION_STEPS
        resumed = s.step > len(self.times)
        if few and not resumed:
            return max(s.steps, s.step + CALIBRATION_STEPS)
        if s.step % CALIBRATION_STEPS if not few else len(self.times) > 1:
            return s.steps
        # At the first step after resuming, the pace of the whole run so far says more than that step, which compiles.
        pace = s.seconds / s.step if few else statistics.median(self.times)
        left = 0.97 * self.budget - s.seconds  # 3%: the last validation and checkpoint
        n = s.step + max(0, int(left / pace))
        if dist.is_initialized():
            shared = torch.tensor(n)
            dist.broadcast(shared, 0, group=host_group())
            n = int(shared)
        return n
