"""One engine in a thread of its own, since an engine is not thread-safe, stepped for as long as there is work."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from nanochat.inference import Engine, Stream
from nanochat.serve.answer import Answer, Draining, Job, Piece

# Between two times that tokens are handed over, for each answer that runs beside another one. Handing over one answer's
# tokens costs the event loop up to 0.1 ms, on the cores that compute; one answer alone gets each token at once.
EVENT_SECONDS = 0.001

REST_SECONDS = 30.0  # for an engine after a step that failed

Handed = tuple[Answer, int, Piece | None, bool, BaseException | None]  # the arguments of Answer.receive


@dataclass(slots=True, eq=False)
class _Run:
    job: Job
    stream: Stream
    rows: int  # samples that are not complete
    begun: bool = False  # whether anything has been handed over
    ends: bool = False  # it is complete, or nobody wants more


class Source(Protocol):
    """Where a replica's work comes from, and what it tells of it."""

    def take(self, replica: Replica) -> list[Job] | None: ...

    def count(self, replica: Replica, rows: int = 0, tokens: int = 0, seconds: float = 0.0) -> None: ...


class Replica:
    """`source` gives it work. rows: samples that it computes, and those of `given`, which begin with its next step.

    rests_until: by the monotonic clock. A device that is broken has nothing to do, and would be given all there is.
    """

    def __init__(self, number: int, engine: Engine, source: Source) -> None:
        self.number = number
        self.engine = engine
        self.rows = 0
        self.rests_until = 0.0
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
            try:
                self._begin(jobs)
                if self._runs:
                    self._step()
            except BaseException as error:  # told to those whose answers it ended; this thread serves the others
                self.rests_until = monotonic() + REST_SECONDS
                self._end(error)
        self._end(Draining(1))

    def _begin(self, jobs: list[Job]) -> None:
        for job in jobs:
            try:
                self._runs.append(_Run(job, self.engine.stream(job.request), job.request.n))
            except BaseException as error:  # told to the one who asked
                self._source.count(self, rows=-job.request.n)
                hand_over([(job.answer, job.index, None, True, error)])

    def _step(self) -> None:
        started = monotonic()
        self.engine.step()
        now = monotonic()
        due = now >= self._due
        if due:
            self._due = now + EVENT_SECONDS * (len(self._runs) - 1)
        for run in self._runs:
            run.ends = run.job.answer.over or run.stream.done
        told = [run for run in self._runs if due or run.ends or not run.begun]
        pieces = [Piece(run.job.index, run.stream.take(), run.stream.finished(), self.number) for run in told]
        handed: list[Handed] = []
        tokens = rows = 0
        for run, piece in zip(told, pieces, strict=True):
            tokens += len(piece.tokens)
            first = bool(piece.tokens) and not run.begun
            if run.job.answer.quiet:
                piece.tokens = []
            freed = run.rows if run.ends else len(piece.finished)
            rows += freed
            run.rows -= freed
            if piece.tokens or piece.finished or run.ends or first:
                run.begun = True
                handed.append((run.job.answer, run.job.index, piece, run.ends, run.stream.error))
            if run.ends:
                run.stream.close()
        self._runs = [run for run in self._runs if not run.ends]
        # First, so that an answer that has been read to its end is in the statistics.
        self._source.count(self, -rows, tokens, now - started)
        hand_over(handed)

    def _end(self, error: BaseException) -> None:
        """End all answers, with what has come of them."""
        runs, self._runs = self._runs, []
        pieces = [Piece(run.job.index, run.stream.take(), [], self.number) for run in runs]
        for run in runs:
            run.stream.close()
        self._source.count(self, -sum(run.rows for run in runs), sum(len(piece.tokens) for piece in pieces))
        told = zip(runs, pieces, strict=True)
        hand_over([(run.job.answer, run.job.index, piece, True, error) for run, piece in told])


def hand_over(handed: list[Handed]) -> None:
    """Wake each event loop once, for all that its answers get."""
    for loop in {answer.loop for answer, *_ in handed}:
        mine = [one for one in handed if one[0].loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(_receive, mine)


def _receive(handed: list[Handed]) -> None:
    for answer, index, piece, ended, error in handed:
        answer.receive(index, piece, ended, error)
