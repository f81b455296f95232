"""Answers for many clients from one engine, side by side, in a thread; each is ended when nobody listens."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nanochat.inference import Engine, Request, Stream, Token


class Busy(Exception):
    """Too many are waiting already."""


@dataclass
class Stats:
    requests: int = 0  # begun, finished ones included
    tokens: int = 0
    seconds: float = 0.0  # that the engine worked
    waiting: int = 0
    running: int = 0


class Answer:
    """An accepted request: an iterator over its answer's tokens. Its holder must call `leave` at the end."""

    def __init__(self, answers: Answers, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self._answers, self._loop = answers, loop
        self._arrived: asyncio.Queue[Token | BaseException | None] = asyncio.Queue()
        self.left = False

    def send(self, item: Token | BaseException | None) -> None:
        """From the engine's thread: a token, or how the answer ended."""
        if not self.left:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
                self._loop.call_soon_threadsafe(self._arrived.put_nowait, item)

    async def __aiter__(self) -> AsyncIterator[Token]:
        while (item := await self._arrived.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def leave(self) -> None:
        """Stop the work on the answer, however far it is."""
        if not self.left:
            self.left = True
            self._answers.drop(self)


class Answers:
    """Steps the engine in one thread of its own, since the engine is not thread-safe, for as long as there is work."""

    def __init__(self, engine: Engine, max_waiting: int) -> None:
        self.engine = engine
        self.max_waiting = max_waiting  # besides the first one
        self.stats = Stats()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._lock = threading.Lock()  # of the statistics and all below
        self._waiting: deque[Answer] = deque()
        self._working = False
        self._closing = False

    @property
    def full(self) -> bool:
        return self.stats.waiting + self.stats.running > self.max_waiting

    def begin(self, request: Request) -> Answer:
        """Accept and count a request; Busy when too many are waiting. Call it in the event loop's thread."""
        answer = Answer(self, request, asyncio.get_running_loop())
        with self._lock:
            if self.full:
                raise Busy
            if not self._working:
                self._thread.submit(self._work)
                self._working = True
            self._waiting.append(answer)
            self._change(waiting=1)
        return answer

    def drop(self, answer: Answer) -> None:
        """Forget an answer that waits; one that is being made ends at the next step."""
        with self._lock:
            if answer in self._waiting:
                self._waiting.remove(answer)
                self._change(waiting=-1)

    def _work(self) -> None:
        """Until nothing is left to do."""
        running: dict[Answer, Stream] = {}
        while self._take(running):
            started = time.monotonic()
            error: BaseException | None = None
            try:
                self.engine.step()
            except BaseException as failure:  # told to those whose answers it ended; this thread serves the others
                error = failure
            self._count(seconds=time.monotonic() - started)
            for answer, stream in list(running.items()):
                tokens = stream.take()
                self._count(tokens=len(tokens))
                for token in tokens:
                    answer.send(token)
                if error or stream.done or answer.left:
                    self._end(running, answer, error or stream.error)

    def _take(self, running: dict[Answer, Stream]) -> bool:
        """Begin waiting answers while the engine has room; False if there is nothing to do any more."""
        with self._lock:
            new: list[Answer] = []
            while self._waiting and len(running) + len(new) < self.engine.max_batch and not self._closing:
                new.append(self._waiting.popleft())
            self._change(waiting=-len(new), running=len(new), requests=len(new))
            working = self._working = bool(running or new) and not self._closing
        for answer in new:
            try:
                running[answer] = self.engine.stream(answer.request)
            except BaseException as error:  # told to the one who asked
                self._count(running=-1)
                answer.send(error)
        if not working:
            for answer in list(running):
                self._end(running, answer, None)
        return working

    def _end(self, running: dict[Answer, Stream], answer: Answer, error: BaseException | None) -> None:
        running.pop(answer).close()
        self._count(running=-1)
        answer.send(error)  # last, so that an answer read to its end is in the statistics

    def _count(self, **changes: float) -> None:
        with self._lock:
            self._change(**changes)

    def _change(self, **changes: float) -> None:
        for name, change in changes.items():
            setattr(self.stats, name, getattr(self.stats, name) + change)

    def close(self) -> None:
        """End all answers, those that wait too."""
        with self._lock:
            self._closing = True
        self._thread.shutdown(wait=True)
        for answer in self._waiting:
            answer.send(None)
