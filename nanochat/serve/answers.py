"""Answers for many clients from one engine: one at a time, in a thread, ended when nobody listens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
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


class Answers:
    """The engine is not made for several threads: this one thread is the only one that touches it."""

    def __init__(self, engine: Engine, max_waiting: int) -> None:
        self.engine = engine
        self.max_waiting = max_waiting
        self.stats = Stats()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._closing = threading.Event()
        self._counting = threading.Lock()

    def admit(self) -> None:
        """Busy when no one more may wait."""
        if self.stats.waiting >= self.max_waiting:
            raise Busy

    async def stream(self, request: Request) -> AsyncGenerator[Token, None]:
        """Tokens of one answer. Leaving the iterator, in whatever way, ends the work on it."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Token | BaseException | None] = asyncio.Queue()
        left = threading.Event()

        def send(item: Token | BaseException | None) -> None:
            if not left.is_set():
                loop.call_soon_threadsafe(arrived.put_nowait, item)

        self._count(waiting=1)
        work = self._thread.submit(self._answer, request, send, left)
        try:
            while (item := await arrived.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            left.set()
            if work.cancel():  # it never began
                self._count(waiting=-1)

    def _answer(
        self, request: Request, send: Callable[[Token | BaseException | None], None], left: threading.Event
    ) -> None:
        self._count(waiting=-1, running=1, requests=1)
        tokens = 0
        started = time.monotonic()
        try:
            for token in self.engine.stream(request):
                if left.is_set() or self._closing.is_set():
                    break
                tokens += 1
                send(token)
            send(None)
        except BaseException as error:
            send(error)
        finally:
            self._count(running=-1, tokens=tokens, seconds=time.monotonic() - started)

    def _count(self, **changes: float) -> None:
        """Add to the statistics, from either thread."""
        with self._counting:
            for name, change in changes.items():
                setattr(self.stats, name, getattr(self.stats, name) + change)

    def close(self) -> None:
        """End the answer in work and drop those waiting."""
        self._closing.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
