"""One engine in a thread of its own, since an engine is not thread-safe, stepped for as long as there is work."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from nanochat.inference import Engine, Stream
from nanochat.serve.answer import Answer, Draining, Job, Piece

# Between two times that tokens are handed over, for each answer that runs beside another one. Handing over one answer's
# tokens costs the event loop up to 0.1 ms, on the cores that compute; one answer alone gets each token at once.
EVENT_SECONDS = 0.001

Handed = tuple[Answer, int, Piece | None, bool, BaseException | None]


@dataclass(slots=True, eq=False)
class _Run:
    job: Job
    stream: Stream
    rows: int  # samples that are not complete
    begun: bool = False  # whether a token has been handed over


class Source(Protocol):
    """Where a replica's work comes from, and what it tells of it."""

    def take(self, replica: Replica) -> list[Job] | None: ...

    def count(self, replica: Replica, rows: int = 0, tokens: int = 0, seconds: float = 0.0) -> None: ...


class Replica:
    """`source` gives it work. rows: samples that it computes, and those of `given`, which begin with its next step."""

    def __init__(self, number: int, engine: Engine, source: Source) -> None:
        self.number = number
        self.engine = engine
        self.rows = 0
        self.given: list[Job] = []
        self._source = source
        self._runs: list[_Run] = []
        self._due = 0.0  # when all are told again
        self._thread = threading.Thread(target=self._work, name=f"engine {number}", daemon=True)

    @property
    def device(self) -> str:
        return str(self.engine.model.device)

    @property
    def full(self) -> bool:
        return self.rows >= self.engine.max_batch

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        while (jobs := self._source.take(self)) is not None:
            handed = [failed for job in jobs if (failed := self._begin(job))]
            if handed:
                hand_over(handed)
            if self._runs:
                self._step()
        for run in self._runs:
            run.stream.close()
        self._source.count(self, rows=-sum(run.rows for run in self._runs))
        hand_over([(run.job.answer, run.job.index, None, True, Draining(1)) for run in self._runs])

    def _begin(self, job: Job) -> Handed | None:
        try:
            self._runs.append(_Run(job, self.engine.stream(job.request), job.request.n))
        except BaseException as error:  # told to the one who asked
            self._source.count(self, rows=-job.request.n)
            return job.answer, job.index, None, True, error
        return None

    def _step(self) -> None:
        started = time.monotonic()
        error: BaseException | None = None
        try:
            self.engine.step()
        except BaseException as failure:  # told to those whose answers it ended; this thread serves the others
            error = failure
        now = time.monotonic()
        due = now >= self._due
        if due:
            self._due = now + EVENT_SECONDS * (len(self._runs) - 1)
        tokens = rows = 0
        handed: list[Handed] = []
        ended = set()
        for run in self._runs:
            answer, stream = run.job.answer, run.stream
            end = error is not None or answer.over or stream.done
            if not (end or due or not run.begun):
                continue
            piece = Piece(run.job.index, stream.take(), stream.finished(), self.number)
            tokens += len(piece.tokens)
            if answer.quiet:
                piece.tokens = []
            rows -= len(piece.finished)
            run.rows -= len(piece.finished)
            some = bool(piece.tokens or piece.finished)
            run.begun |= some
            if some or end:
                handed.append((answer, run.job.index, piece if some else None, end, error or stream.error))
            if end:
                ended.add(run)
                rows -= run.rows
                stream.close()
        if ended:
            self._runs = [run for run in self._runs if run not in ended]
        # First, so that an answer that has been read to its end is in the statistics.
        self._source.count(self, rows, tokens, now - started)
        hand_over(handed)


def hand_over(handed: list[Handed]) -> None:
    """Wake each event loop once, for all that its answers get."""
    for loop in {answer.loop for answer, *_ in handed}:
        mine = [one for one in handed if one[0].loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(_receive, mine)


def _receive(handed: list[Handed]) -> None:
    for answer, index, piece, ended, error in handed:
        answer.receive(index, piece, ended, error)
