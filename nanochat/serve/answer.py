"""An accepted request, as its reader sees it in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from nanochat.inference import Completion, Request, Token


class Refused(Exception):
    """A request that is not taken in. retry_after: whole seconds after which it may be."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} seconds")
        self.retry_after = retry_after


class Busy(Refused):
    """Too many are waiting already."""


class Draining(Refused):
    """The server is ending."""


class OutOfTime(Exception):
    """An answer took longer, its wait included, than the server allows."""


@dataclass(slots=True)
class Piece:
    """What has come of one request since it was last asked: tokens, and the samples that are complete now."""

    request: int  # index in the list given to begin()
    tokens: list[Token]
    finished: list[Completion]
    gpu: int = 0  # the number of the replica that answers


@dataclass(slots=True, eq=False)
class Job:
    """One request of an answer, from the queue to its end. waits: no replica has begun it."""

    answer: Answer
    index: int
    request: Request
    waits: bool = True


class Holder(Protocol):
    """What an answer tells: that nobody wants more of it, the seconds to its first token, and those between events."""

    on_first: Callable[[float], object]
    on_gap: Callable[[float], object]

    def drop(self, answer: Answer) -> None: ...


class Answer:
    """An iterator over the pieces of its requests' answers. Its holder must call `leave` at the end.

    All but `over` and `quiet` belongs to the event loop's thread. Pieces that are not read are joined, so that what is
    kept for a slow reader is never more than the answer. quiet: nobody reads tokens, only what is complete.
    """

    def __init__(self, holder: Holder, requests: Sequence[Request], client: str, max_seconds: float) -> None:
        self.jobs = [Job(self, index, request) for index, request in enumerate(requests)]
        self.client = client
        self.loop = asyncio.get_running_loop()
        self.over = False  # nobody wants more of it
        self.quiet = False
        self._holder = holder
        self._open = len(self.jobs)
        self._come: dict[int, Piece] = {}
        self._error: BaseException | None = None
        self._reader: asyncio.Future[None] | None = None
        self._last: float | None = None  # when tokens came
        self._begun = self.loop.time()
        self._timer = self.loop.call_later(max_seconds, self._expire)

    def receive(self, index: int, piece: Piece | None, ended: bool, error: BaseException | None) -> None:
        """Take in what a replica hands over: a piece, whether it was the request's last one, and why it failed."""
        if self.over:
            return
        quiet_first = self.quiet and self._last is None and error is None  # such a piece holds nothing else
        if piece is not None and (piece.tokens or quiet_first):
            self._observe()
        if piece is not None and (piece.tokens or piece.finished):
            if (before := self._come.get(index)) is None:
                self._come[index] = piece
            else:
                before.tokens += piece.tokens
                before.finished += piece.finished
        if ended:
            self._open -= 1
            if error is not None and self._error is None:
                self._error = error
        self._wake()

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Piece:
        while not self._come:
            if self._error is not None:
                raise self._error
            if not self._open:
                raise StopAsyncIteration
            self._reader = self.loop.create_future()
            await self._reader
        return self._come.pop(next(iter(self._come)))

    def leave(self) -> None:
        """Stop the work on the answer, however far it is."""
        self._timer.cancel()
        if not self.over:
            self.over = True
            self._holder.drop(self)

    def _expire(self) -> None:
        self._error = OutOfTime()
        self.leave()
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _observe(self) -> None:
        now = self.loop.time()
        if self._last is None:
            self._holder.on_first(now - self._begun)
        else:
            self._holder.on_gap(now - self._last)
        self._last = now
