"""Answers for many clients from one engine: one at a time, in a thread, ended when nobody listens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from nanochat.inference import Engine, Request, Token


class Busy(Exception):
    """Too many are waiting already."""


@dataclass
class Stats:
    requests: int = 0  # begun, finished ones included
    tokens: int = 0
    seconds: float = 0.0  # spent on answers
    waiting: int = 0
    running: int = 0


class Answer:
    """An accepted request: an iterator over its answer's tokens. Its holder must call `leave` at the end."""

    def __init__(self, answers: Answers, loop: asyncio.AbstractEventLoop) -> None:
        self._answers, self._loop = answers, loop
        self._arrived: asyncio.Queue[Token | BaseException | None] = asyncio.Queue()
        self.left = threading.Event()
        self.work: Future[None] | None = None

    def send(self, item: Token | BaseException | None) -> None:
        """From the engine's thread: a token, or how the answer ended."""
        if not self.left.is_set():
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, item)

    async def __aiter__(self) -> AsyncIterator[Token]:
        while (item := await self._arrived.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def leave(self) -> None:
        """Stop the work on the answer, however far it is."""
        if not self.left.is_set():
            self.left.set()
            if self.work and self.work.cancel():  # it never began
                self._answers.count(waiting=-1)


class Answers:
    """Runs the engine in one thread of its own, since the engine is not thread-safe."""

    def __init__(self, engine: Engine, max_waiting: int) -> None:
        self.engine = engine
        self.max_waiting = max_waiting  # besides the one being answered
        self.stats = Stats()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._closing = threading.Event()
        self._counting = threading.Lock()

    @property
    def full(self) -> bool:
        return self.stats.waiting + self.stats.running > self.max_waiting

    def begin(self, request: Request) -> Answer:
        """Accept and count a request; Busy when too many are waiting. Call it in the event loop's thread."""
        with self._counting:
            if self.full:
                raise Busy
            self.stats.waiting += 1
        answer = Answer(self, asyncio.get_running_loop())
        answer.work = self._thread.submit(self._answer, request, answer)
        return answer

    def _answer(self, request: Request, answer: Answer) -> None:
        self.count(waiting=-1, running=1, requests=1)
        started = time.monotonic()
        ending: BaseException | None = None
        try:
            for token in self.engine.stream(request):
                if answer.left.is_set() or self._closing.is_set():
                    break
                self.count(tokens=1)
                answer.send(token)
        except BaseException as error:
            ending = error
        self.count(running=-1, seconds=time.monotonic() - started)
        answer.send(ending)  # last, so that an answer read to its end is in the statistics

    def count(self, **changes: float) -> None:
        """Add to the statistics, from either thread."""
        with self._counting:
            for name, change in changes.items():
                setattr(self.stats, name, getattr(self.stats, name) + change)

    def close(self) -> None:
        """Stop the current answer and drop the waiting ones."""
        self._closing.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
