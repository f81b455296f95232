"""The process beside a training that keeps its backup.

It imports no torch, takes no part of the training's interpreter, and whatever happens to it does not touch the run. It
looks for new whole checkpoints every second. What it is told comes as lines of JSON on stdin, what it tells goes to
stdout; when its parent is gone, it finishes what it can within GIVE_UP seconds and ends.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from nanochat import lock
from nanochat.console import UserError
from nanochat.hub.backup import Backup, Found, Order, Tell, staging
from nanochat.hub.marker import Superseded
from nanochat.hub.target_url import open_target
from nanochat.hub.targets import said
from nanochat.paths import base_dir

POLL = 1.0  # seconds between two looks at the base dir
GIVE_UP = 30.0  # seconds that this goes on without its parent: spot machines are taken away after as many
LONGEST_PAUSE = 60.0  # seconds between two tries
AT_THE_END = 10.0  # the same, when a person waits
PATIENCE = 120.0  # seconds without a byte after which that person is told that it did not work
PATIENCE_NAME = "NANOCHAT_BACKUP_WAIT"  # environment variable for another PATIENCE
MOST_TRIES = 30  # at the end
MOST_LOSSES = 3  # times that what was sent may be gone at the end, and is sent again
REMIND = 600.0  # seconds between two warnings of the same trouble


def serve(backup: Backup, inbox: queue.Queue[dict[str, Any]], alone: Callable[[], bool], patience: float) -> None:
    """Work until told to finish, or until nobody is left to work for (alone). The last message has the key "done"."""
    url, found, error = backup.target.url, Found(), ""
    failures, warned, finishing, until, losses = 0, -1e9, False, float("inf"), 0

    def tell(**more: Any) -> None:
        backup.tell(
            {"unsafe": backup.unsafe(found), "safe": backup.safe(), "left": found.bytes, "error": error, **more}
        )

    while True:
        while not inbox.empty():
            told = inbox.get()
            if told["do"] == "finish":
                finishing, failures, backup.moved = True, 0, time.monotonic()
            else:
                with contextlib.suppress(Exception):  # what it looks for there is only for a remark
                    backup.begin(Order.of(told))
        if until == float("inf") and alone():
            until = time.monotonic() + GIVE_UP
        ending = finishing or until < float("inf")
        busy = False
        try:
            found = backup.look()
            busy = backup.act(found, ending, small_first=failures % 2 == 1)
            if ending and not busy and backup.has_lost():
                busy, losses = True, losses + 1
                backup.tell({"warn": f"warning: {url} no longer holds all that was sent; it is sent again"})
            if failures:
                backup.tell({"say": f"Backup: {url} answers again"})
            failures, error = 0, ""
        except Superseded as failure:
            backup.tell({"warn": f"warning: {failure}: this backup has stopped"})
            error = said(failure)
            tell(done=False)
            return
        except Exception as failure:
            failures, error = failures + 1, said(failure)
            if time.monotonic() - warned > REMIND:
                warned = time.monotonic()
                goes_on = "it is tried again" if ending else "the training goes on, and it is tried again"
                backup.tell({"warn": f"warning: the backup to {url} fails ({error}); {goes_on}"})
        if busy:
            backup.moved = time.monotonic()
        elif ending and not failures:
            found = Found()
            tell(done=not backup.damaged)
            return
        tell()
        tired = time.monotonic() - backup.moved > patience or failures >= MOST_TRIES
        if losses == MOST_LOSSES or time.monotonic() > until or (finishing and failures > 2 and tired):
            tell(done=False)
            return
        if not busy:
            pause = min(AT_THE_END if ending else LONGEST_PAUSE, 2.0 ** (failures - 1)) if failures else POLL
            _wait(pause, inbox, (lambda: False) if ending else alone)


def _wait(seconds: float, inbox: queue.Queue[dict[str, Any]], alone: Callable[[], bool]) -> None:
    """Until then, or until something is told or nobody is left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and inbox.empty() and not alone():
        time.sleep(min(0.1, seconds))


def patience_wanted() -> float:
    """PATIENCE, or what the environment says instead. UserError when that is no number of seconds."""
    given = os.environ.get(PATIENCE_NAME, "")
    if not given:
        return PATIENCE
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise UserError(f"{PATIENCE_NAME}={given} is not a number of seconds above 0", f"export {PATIENCE_NAME}=120")
    return seconds


@contextlib.contextmanager
def opened(url: str, tell: Tell, token: str = "") -> Iterator[Backup]:
    """A claimed backup; at the end, another process may have it."""
    busy = f"another backup of {base_dir()} to {url} is at work"
    with lock.hold(staging(url).with_suffix(".lock"), busy, 2 * GIVE_UP):
        backup = Backup(open_target(url, token), tell)
        backup.open()
        try:
            yield backup
        finally:
            with contextlib.suppress(Exception):
                backup.writer.leave()
            shutil.rmtree(backup.place, ignore_errors=True)


def work(url: str, inbox: queue.Queue[dict[str, Any]], tell: Tell, alone: Callable[[], bool], token: str = "") -> None:
    """All of it: told by `inbox`, telling by `tell`. The last thing it tells has the key "done"."""
    try:
        patience = patience_wanted()
        with opened(url, tell, token) as backup:
            tell({"ready": True})
            serve(backup, inbox, alone, patience)
    except UserError as error:
        tell({"refused": error.problem, "remedies": list(error.remedies), "done": False})
    except Exception as error:
        tell({"refused": f"the backup to {url} failed: {said(error)}", "remedies": [], "done": False})


def main() -> None:
    """The process beside a training. argv: the URL."""
    parent, url = os.getppid(), sys.argv[1]
    for number in (signal.SIGINT, signal.SIGTERM):  # for the training, sent to all by a scheduler: this follows it
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(10)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    inbox: queue.Queue[dict[str, Any]] = queue.Queue()
    ended = threading.Event()

    def hear() -> None:
        for line in sys.stdin:
            inbox.put(json.loads(line))
        ended.set()

    def tell(message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the parent is gone
            out.write(json.dumps(message) + "\n")
            out.flush()

    def alone() -> bool:
        return ended.is_set() or os.getppid() != parent

    def end_late() -> None:
        while not alone():
            time.sleep(0.5)
        time.sleep(GIVE_UP + 5.0)
        os._exit(1)

    for job in (hear, end_late):
        threading.Thread(target=job, daemon=True).start()
    work(url, inbox, tell, alone, os.environ.pop("NANOCHAT_BACKUP_TOKEN", ""))
    os._exit(0)


if __name__ == "__main__":
    main()
