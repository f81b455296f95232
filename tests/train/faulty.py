"""scripts.base_train whose ranks meet their fates.

    python -m tests.train.faulty FATES FLAGS ...

FATES: TRY.RANK.STEP.FATE, separated by commas: what a rank does before a step, in the first (0) try or in one of those
for which torchrun starts the ranks anew. "kill" comes when nothing is being saved, "die" at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from nanochat.console import run_command
from nanochat.train import BaseConfig, saving, train_base, watch
from nanochat.train.supervised import Supervised

SIGNALS = {"die": signal.SIGKILL, "kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "stop": signal.SIGTERM}
TOO_LONG = 4.0  # seconds without a step


class FateError(RuntimeError):
    pass


def sleep_for_ever() -> None:
    while True:
        time.sleep(1)


def kill_node() -> None:
    """This rank, its launcher and all that it started."""
    launcher = os.getppid()
    ranks = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    for process in (launcher, *map(int, ranks)):
        if process != os.getpid():
            os.kill(process, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def meet(fate: str) -> None:
    if fate != "die":
        time.sleep(0.5)  # a save that is being written comes to its end
    print(f"process {os.getpid()}: {fate}", flush=True)
    if fate == "raise":
        raise FateError("this is its fate")
    if fate == "hang":
        sleep_for_ever()
    if fate == "node":
        kill_node()
    os.kill(os.getpid(), SIGNALS[fate])


def main() -> None:
    own = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}.{os.environ.get('RANK', 0)}."
    fates = [fate.removeprefix(own).split(".") for fate in sys.argv.pop(1).split(",") if fate.startswith(own)]
    # A hang is shorter here, and so is what a network file system may need.
    watch.FIRST, watch.AT_LEAST, watch.TICK, saving.SEEN = 60.0, TOO_LONG, 0.2, 1.0
    take = Supervised.take

    def fateful(self: Supervised, stepper: Any, step: Any, valid: int, schedule: Any, s: Any) -> Any:
        for at, fate in fates:
            if s.step + 1 == int(at):
                meet(fate)
        return take(self, stepper, step, valid, schedule, s)

    Supervised.take = fateful  # type: ignore[method-assign]
    run_command(BaseConfig, train_base, resumable=True)


if __name__ == "__main__":
    main()
