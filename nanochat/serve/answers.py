"""Answers for many clients: a bounded queue in which they take turns, before engines that answer side by side."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from nanochat.inference import Engine, Request
from nanochat.serve.answer import Answer, Busy, Draining, Job, OutOfTime, Piece, Refused
from nanochat.serve.replica import Replica, hand_over
from nanochat.serve.turns import Turns

__all__ = ["Answer", "Answers", "Busy", "Draining", "OutOfTime", "Piece", "Refused", "Stats"]

MAX_WAITING = 256
MAX_SECONDS = 600.0
LONGEST_RETRY = 60  # seconds
UNKNOWN_RETRY = 5  # seconds, while no sample has been completed yet


@dataclass
class Stats:
    """Samples are counted, of which a request may ask for several; `requests` counts what was begun."""

    requests: int = 0  # begun, finished ones included
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0  # that the engines worked
    waiting: int = 0
    running: int = 0


class Answers:
    """One thread for each engine; they share a queue, and the least loaded is given what is next.

    max_waiting: samples that may wait while all rows of all engines are taken. Who has none waiting may come even then,
    until there are twice as many: one client alone keeps nobody out. max_seconds: for one answer, its wait included.
    on_first, on_gap: called in the event loop with the seconds to an answer's first token and between events.
    """

    def __init__(
        self, engine: Engine | Sequence[Engine], max_waiting: int = MAX_WAITING, max_seconds: float = MAX_SECONDS
    ) -> None:
        engines = engine if isinstance(engine, Sequence) else [engine]
        self.engine = engines[0]
        self.max_waiting = max_waiting
        self.max_seconds = max_seconds
        self.stats = Stats()
        self.on_first: Callable[[float], object] = lambda seconds: None
        self.on_gap: Callable[[float], object] = lambda seconds: None
        self.draining = False
        self.replicas = [Replica(number, engine, self) for number, engine in enumerate(engines)]
        self._lock = threading.Lock()  # of the statistics, the replicas' rows and all below
        self._changed = threading.Condition(self._lock)
        self._turns: Turns[Job] = Turns()
        self._ends: deque[float] = deque(maxlen=64)  # when the last samples were complete
        self._started = False
        self._closing = False

    @property
    def slots(self) -> int:
        """Samples that are computed at once."""
        return sum(replica.engine.max_batch for replica in self.replicas)

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not (self.stats.waiting or self.stats.running)

    def check(self, client: str) -> None:
        """Busy or Draining where begin would raise them: asked before time is spent on a prompt."""
        if self.draining:
            raise Draining(1)
        most = self.max_waiting * (1 if client in self._turns else 2)
        if self.stats.waiting + self.stats.running >= self.slots + most:
            raise Busy(self._retry_after())

    def begin(self, requests: Request | Sequence[Request], client: str = "") -> Answer:
        """Accept requests that are answered as one; Busy or Draining if not. Call it in the event loop's thread."""
        requests = [requests] if isinstance(requests, Request) else requests
        with self._lock:
            self.check(client)
            answer = Answer(self, requests, client, self.max_seconds)
            for job in answer.jobs:
                self._turns.add(client, job)
                self.stats.waiting += job.request.n
            if not self._started:
                self._started = True
                for replica in self.replicas:
                    replica.start()
            self._give()
        return answer

    def drop(self, answer: Answer) -> None:
        """Forget what of an answer waits; what is being made ends at the next step."""
        with self._lock:
            waiting = {job for job in answer.jobs if job.waits}
            for job in waiting:
                job.waits = False
                self.stats.waiting -= job.request.n
            if waiting:
                self._turns.remove(answer.client, waiting)
                for replica in self.replicas:
                    for job in waiting.intersection(replica.given):
                        replica.given.remove(job)
                        replica.rows -= job.request.n
                self._give()

    def take(self, replica: Replica) -> list[Job] | None:
        """Requests that a replica begins before its next step; it waits while it has none. None: it is to end."""
        with self._lock:
            while not self._closing:
                if replica.rows:
                    jobs, replica.given = replica.given, []
                    for job in jobs:
                        job.waits = False
                        self.stats.waiting -= job.request.n
                        self.stats.running += job.request.n
                        self.stats.requests += 1
                        self.stats.prompt_tokens += len(job.request.prompt)
                    return jobs
                if self.idle:  # what the speed was before says nothing about the next rush
                    self._ends.clear()
                self._changed.wait()
        return None

    def _give(self) -> None:
        """Give what waits to the replicas, least loaded first, as far as they have room. The lock is held."""
        now = monotonic()
        ready = [replica for replica in self.replicas if replica.rests_until <= now] or self.replicas
        while self._turns:
            replica = min(ready, key=lambda replica: replica.rows)
            if replica.full:
                break
            job = self._turns.next()
            replica.given.append(job)
            replica.rows += job.request.n
        self._changed.notify_all()

    def count(self, replica: Replica, rows: int = 0, tokens: int = 0, seconds: float = 0.0) -> None:
        """What a replica has done: `rows` fewer than before, as a negative number."""
        with self._lock:
            replica.rows += rows
            self.stats.running += rows
            self.stats.tokens += tokens
            self.stats.seconds += seconds
            if rows:
                self._ends.extend([monotonic()] * -rows)
                self._give()

    def drain(self) -> None:
        """Accept no more requests; those that were accepted are answered."""
        self.draining = True

    def close(self) -> None:
        """End all answers, those that wait too."""
        self.draining = True
        with self._lock:
            self._closing = True
            self._changed.notify_all()
        for replica in self.replicas:
            replica.join()
        with self._lock:
            jobs = [job for replica in self.replicas for job in replica.given]
            jobs += [self._turns.next() for _ in range(len(self._turns))]
            self.stats.waiting = 0
        for job in jobs:
            job.waits = False
        hand_over([(job.answer, job.index, None, True, Draining(1)) for job in jobs])

    def _retry_after(self) -> int:
        """Whole seconds in which half of those that wait now will have begun, at the speed of the last samples."""
        if not self._ends:
            return UNKNOWN_RETRY
        speed = len(self._ends) / max(monotonic() - self._ends[0], 1e-3)
        return min(max(1, math.ceil(self.stats.waiting / 2 / speed)), LONGEST_RETRY)
