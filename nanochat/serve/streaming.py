"""Answers on their way to a client: as a stream of events, or whole. Either ends the work when the client has gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Protocol, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from nanochat.inference import Completion
from nanochat.serve.answers import Answer

# A proxy in between must neither cache nor buffer the events.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

T = TypeVar("T")


def event_of(data: dict[str, Any]) -> str:
    """An event of a stream."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def client_of(request: Request) -> str:
    """Who asks, so that clients can take turns: the address."""
    return request.client.host if request.client else ""


class Left(Protocol):
    """What a stream is made from, which is told at its end that nobody reads it any more."""

    def leave(self) -> None: ...


class EventStream(StreamingResponse):
    """The events, each a text that ends in an empty line. The answer is left at the end, even if none was sent.

    A client that reads slowly holds up this response alone; the server ends connections of those who read nothing.
    """

    def __init__(self, answer: Left, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=HEADERS)
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _unless_gone(asyncio.create_task(self.stream_response(send)), receive)  # type: ignore[arg-type]
        except (ClientDisconnect, OSError):  # where the server tells it in its own way
            pass
        finally:
            self.answer.leave()


async def whole(answer: Answer, request: Request) -> list[list[Completion]]:
    """The samples of each request, when all are complete; the answer is left then. ClientDisconnect: nobody waits."""
    answer.quiet = True
    try:
        return await _unless_gone(asyncio.create_task(_collect(answer)), request.receive)
    finally:
        answer.leave()


async def _collect(answer: Answer) -> list[list[Completion]]:
    samples: list[list[Completion]] = [[] for _ in answer.jobs]
    async for piece in answer:
        samples[piece.request] += piece.finished
    return [sorted(some, key=lambda completion: completion.sample) for some in samples]


async def _unless_gone(work: asyncio.Task[T], receive: Receive) -> T:
    """What the work gives; it is cancelled when the client goes first, which is a ClientDisconnect."""
    leaving = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientDisconnect
    finally:
        work.cancel()
        leaving.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)  # a body's rest
