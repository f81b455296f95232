"""A rank that hangs is named and ended: its job must not go on costing money in silence."""

from __future__ import annotations

import faulthandler
import json
import os
import secrets
import socket
import statistics
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

from nanochat.console import end, within
from nanochat.machine import Machine, open_store
from nanochat.train.state import shared
from nanochat.train.stopping import Stop

TICK = 1.0  # seconds between two looks
AT_LEAST = 300.0  # seconds without progress that are never too long
TIMES = 20  # the median step
FIRST = 1800.0  # seconds that the first steps, which compile, may take
ANSWER = 5.0  # seconds that the ranks' store may take to say what the ranks do
HEARD = 4.0  # seconds that the other ranks have to hear that one was asked to stop
STEPS = 32  # of which the median is taken


@dataclass
class Pulse:
    """What a rank's training thread was doing. count: grows with every such change; time: of the rank's own watch."""

    count: int
    what: str
    time: float
    where: str  # host and process


class Watch:
    """Watches this process's training thread, which says `at` what it is. Through the ranks' store it also passes on
    that one of them was asked to stop."""

    def __init__(self, machine: Machine, stop: Stop) -> None:
        self.ranks, self.stop = machine.ranks, stop
        self._store = open_store(machine.ranks)
        # The store may outlive a run that is started again.
        self._key = f"nanochat/{shared(lambda: secrets.token_hex(8))}"
        self._pulse = Pulse(0, "starting", time.time(), f"{socket.gethostname()}, process {os.getpid()}")
        self._last = time.monotonic()
        self._times: deque[float] = deque(maxlen=STEPS)
        self._ended = threading.Event()

    def at(self, what: str) -> None:
        """The training thread goes on with something else."""
        self._pulse.what = what
        self._pulse.count += 1
        self._last = time.monotonic()

    def progress(self) -> None:
        """A piece of what it is at is done."""
        self.at(self._pulse.what)

    def stepped(self, seconds: float) -> None:
        self._times.append(seconds)

    @property
    def limit(self) -> float:
        """Seconds without progress that are too long."""
        if len(self._times) < 3:
            return FIRST
        return max(AT_LEAST, TIMES * statistics.median(self._times))

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._work, daemon=True, name="watch")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._store and self.stop.asked:
            within(HEARD, self._pass_on)
        self._ended.set()
        self._thread.join(TICK)  # the store may end with the first rank

    def _work(self) -> None:
        looked = time.monotonic()
        exchange = threading.Thread()  # of its own, since a store whose process is frozen never answers
        while not self._ended.wait(TICK):
            now = time.monotonic()
            if now - looked > TICK + AT_LEAST / 4:  # this process was itself stopped (Ctrl-Z, a sleeping laptop)
                self._last = now
            looked = now
            if self._store and not exchange.is_alive():
                exchange = threading.Thread(target=self._exchange, daemon=True, name="exchange")
                exchange.start()
            if now - self._last > self.limit and not self.stop.asked and not self._ended.is_set():
                try:
                    within(2 * ANSWER, partial(self._report, now - self._last))
                    self._let_others_report()
                finally:
                    end(1)

    def _exchange(self) -> None:
        assert self._store
        self._pulse.time = time.time()
        with suppress(RuntimeError):  # the store is gone: so is the rank that kept it
            self._store.set(f"{self._key}/pulse/{self.ranks.rank}", json.dumps(asdict(self._pulse)))
            if self._store.check([f"{self._key}/stop"]):
                self.stop.ask()
            if self.stop.asked:
                self._tell_stop()

    def _tell_stop(self) -> None:
        assert self._store
        for name in ("stop", f"stop/{self.ranks.rank}"):
            self._store.set(f"{self._key}/{name}", "1")

    def _pass_on(self) -> None:
        """Wait until all ranks have heard of the stop: to one that has not, this one's leaving would be a failure."""
        assert self._store
        with suppress(RuntimeError):
            self._tell_stop()
            while not self._store.check([f"{self._key}/stop/{rank}" for rank in range(self.ranks.world)]):
                time.sleep(0.05)

    def _report(self, waited: float) -> None:
        problem = f"no step for {waited:,.0f} seconds"
        found: list[str] = []
        asking = threading.Thread(target=self._ask, args=(found,), daemon=True, name="ask")
        asking.start()
        asking.join(ANSWER)
        problem += f": {found[0] if found else 'rank 0, which keeps what the ranks say, does not answer'}"
        print(f"error: {problem}. Ending this run; the same command goes on from its last checkpoint.", file=sys.stderr)
        faulthandler.dump_traceback(all_threads=True)

    def _let_others_report(self) -> None:
        """torchrun ends all ranks when the first one ends, and the traceback that counts is the hanging rank's. It may
        have begun its step later than this rank, by a step at most."""
        if self._store:
            time.sleep(ANSWER + (statistics.median(self._times) if self._times else 0))

    def _ask(self, found: list[str]) -> None:
        with suppress(RuntimeError):
            found.append(self._who())

    def _who(self) -> str:
        """The ranks that are silent, else those that are behind the others."""
        if not self._store:
            return f"stopped while {self._pulse.what}"
        keys = [f"{self._key}/pulse/{rank}" for rank in range(self.ranks.world)]
        heard = {n: self._store.get(key) for n, key in enumerate(keys) if self._store.check([key])}
        pulses = {n: Pulse(**json.loads(value)) for n, value in heard.items()}
        silent = [n for n in range(self.ranks.world) if n not in pulses or time.time() - pulses[n].time > AT_LEAST / 2]
        fewest = min(pulse.count for pulse in pulses.values())
        behind = [n for n, pulse in pulses.items() if pulse.count == fewest]
        if not silent and len(behind) == len(pulses):
            return f"all ranks stopped while {pulses[0].what}"
        return "; ".join(
            f"rank {n} ({pulses[n].where}) {'is silent since' if n in silent else 'stopped while'} {pulses[n].what}"
            if n in pulses
            else f"rank {n} was never heard of"
            for n in silent or behind
        )
