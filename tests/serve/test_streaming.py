"""Answers as a stream or whole, and clients that leave or do not read."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from starlette.requests import ClientDisconnect

from nanochat.inference import Engine, Request, Token
from nanochat.serve.answers import Answer, Answers
from nanochat.serve.streaming import EventStream, whole

Message = dict[str, Any]


def words(count: int | None) -> Callable[[Request], Any]:
    word = Token(0, "word ", "text", 0)
    return lambda request: itertools.repeat(word, count) if count is not None else itertools.repeat(word)


def request(engine: Engine, **settings: Any) -> Request:
    return Request([engine.tokenizer.bos], **settings)


async def idle(answers: Answers) -> None:
    while not answers.idle:
        await asyncio.sleep(0.005)


def run(answers: Answers, test: Callable[[], Any]) -> None:
    async def within() -> None:
        try:
            await asyncio.wait_for(test(), 60)
        finally:
            await asyncio.to_thread(answers.close)

    asyncio.run(within())


async def texts(answer: Answer) -> AsyncIterator[str]:
    async for piece in answer:
        yield f"data: {len(piece.tokens)}\n\n"


class Client:
    """One side of ASGI. It leaves after `leaves` messages, or reads no more than `reads`."""

    def __init__(self, leaves: int | None = None, reads: int | None = None) -> None:
        self.leaves, self.reads = leaves, reads
        self.got: list[Message] = []
        self.left = asyncio.Event()
        if leaves == 0:
            self.left.set()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.got.append(message)
        if len(self.got) == self.leaves:
            self.left.set()
        if len(self.got) == self.reads:
            await asyncio.Event().wait()

    async def take(self, response: EventStream) -> None:
        await response({"type": "http", "asgi": {}}, self.receive, self.send)  # type: ignore[arg-type]

    def request(self) -> HttpRequest:
        return HttpRequest({"type": "http"}, self.receive)


def test_a_stream(scripted: Any) -> None:
    engine = scripted(words(7))
    answers = Answers(engine)

    async def test() -> None:
        client, answer = Client(), answers.begin(request(engine))
        await client.take(EventStream(answer, texts(answer)))
        start, *events, end = client.got
        headers = dict(start["headers"])
        assert start["status"] == 200
        assert headers[b"content-type"].startswith(b"text/event-stream")
        assert headers[b"cache-control"] == b"no-store"
        assert sum(int(event["body"].split()[1]) for event in events) == 7
        assert (end["body"], end["more_body"]) == (b"", False)
        assert answer.over

    run(answers, test)


@pytest.mark.parametrize("leaves", [0, 1, 2, 5])
def test_who_leaves_a_stream_ends_the_work(leaves: int, scripted: Any) -> None:
    engine = scripted(words(None))
    answers = Answers(engine)

    async def test() -> None:
        client, answer = Client(leaves), answers.begin(request(engine))
        await client.take(EventStream(answer, texts(answer)))
        await idle(answers)
        assert not engine.live
        assert all(message.get("more_body", True) for message in client.got)

    run(answers, test)


@pytest.mark.parametrize("leaves", [0, None])
@pytest.mark.parametrize("waits", [False, True])
def test_who_leaves_before_a_whole_answer_ends_the_work(waits: bool, leaves: int | None, scripted: Any) -> None:
    """Also one that waits for its turn."""
    engine = scripted(words(None))
    engine.max_batch = 1
    answers = Answers(engine)

    async def test() -> None:
        before = answers.begin(request(engine)) if waits else None
        while before and not answers.stats.running:
            await asyncio.sleep(0.005)
        client, answer = Client(leaves), answers.begin(request(engine))
        asking = asyncio.create_task(whole(answer, client.request()))
        if leaves is None:
            await asyncio.sleep(0.05)
            assert not asking.done()
            client.left.set()
        with pytest.raises(ClientDisconnect):
            await asking
        if before:
            assert (answers.stats.running, answers.stats.waiting) == (1, 0)
            before.leave()
        await idle(answers)
        assert not engine.live

    run(answers, test)


def test_a_whole_answer(engine: Engine) -> None:
    answers = Answers(engine)
    ids = engine.tokenizer.encode("how many letters")
    requests = [Request(ids, 12, seed=1, n=3), Request(ids[:2], 30, seed=2)]
    expected = engine.generate(requests)

    async def test() -> None:
        answer = answers.begin(requests)
        found = await whole(answer, Client().request())
        assert [[done.ids for done in samples] for samples in found] == [
            [done.ids for done in expected[:3]],
            [expected[3].ids],
        ]
        assert [[done.sample for done in samples] for samples in found] == [[0, 1, 2], [0]]
        assert answer.over
        assert answers.stats.tokens >= sum(len(done.ids) for done in expected)

    run(answers, test)


def test_errors_of_the_engine_come_through(scripted: Any) -> None:
    def script(request: Request) -> Any:
        yield Token(0, "word", "text", 0)
        raise MemoryError

    engine = scripted(script)
    answers = Answers(engine)

    async def test() -> None:
        with pytest.raises(MemoryError):
            await whole(answers.begin(request(engine)), Client().request())
        client, answer = Client(), answers.begin(request(engine))
        with pytest.raises(MemoryError):
            await client.take(EventStream(answer, texts(answer)))
        assert answer.over
        await idle(answers)

    run(answers, test)


def test_who_does_not_read_slows_nobody(scripted: Any) -> None:
    """What has come meanwhile is joined, and the slow one's answer is made to its end."""
    may_go_on = threading.Event()

    def script(request: Request) -> Any:
        yield Token(0, "word ", "text", 0)
        may_go_on.wait(20)
        yield from words(2999)(request)

    engine = scripted(script)
    answers = Answers(engine)

    async def test() -> None:
        slow, answer = Client(reads=2), answers.begin(request(engine))
        reading = asyncio.create_task(slow.take(EventStream(answer, texts(answer))))
        while len(slow.got) < 2:
            await asyncio.sleep(0.005)
        may_go_on.set()
        quick, other = Client(), answers.begin(request(engine))
        await quick.take(EventStream(other, texts(other)))
        await idle(answers)
        assert answers.stats.tokens == 6000
        assert len(answer._come) == 1
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert answer.over

    run(answers, test)


def test_a_cancelled_response_ends_the_work(scripted: Any) -> None:
    """As a server does that ends."""
    engine = scripted(words(None))
    answers = Answers(engine)

    async def test() -> None:
        answer, other = answers.begin(request(engine)), answers.begin(request(engine))
        tasks = [
            asyncio.create_task(Client().take(EventStream(answer, texts(answer)))),
            asyncio.create_task(whole(other, Client().request())),
        ]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError)
        await idle(answers)

    run(answers, test)


def test_over_the_network(scripted: Any, served: Callable[[FastAPI], str]) -> None:
    """A client that reads nothing and one that closes its connection before a whole answer; others do not notice."""
    said = {"long": 200_000, "short": 3, "endless": 10**9}
    counts = {ord(name[0]): count for name, count in said.items()}
    engine = scripted(lambda request: words(counts[request.prompt[0]])(request))
    answers = Answers(engine)
    app = FastAPI()

    @app.get("/{name}")
    async def stream(name: str) -> EventStream:
        answer = answers.begin(Request([ord(name[0])]))

        async def events() -> AsyncIterator[str]:
            async for piece in answer:
                yield "data: " + "".join(token.text for token in piece.tokens) + "\n\n"

        return EventStream(answer, events())

    @app.get("/whole/{name}")
    async def all_of_it(name: str, http: HttpRequest) -> str:
        return (await whole(answers.begin(Request([ord(name[0])])), http))[0][0].text

    @app.exception_handler(ClientDisconnect)
    async def gone(http: HttpRequest, error: ClientDisconnect) -> Response:
        left.set()
        return Response(status_code=499)

    left = threading.Event()
    address = served(app)
    host, port = str(urlsplit(address).hostname), urlsplit(address).port

    def ask(path: str) -> socket.socket:
        client = socket.create_connection((host, port), 20)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return client

    slow, leaver = ask("/long"), ask("/whole/endless")
    deadline = time.monotonic() + 20
    while answers.stats.running < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert json.loads(httpx.get(f"{address}/whole/short", timeout=20).text) == "word " * 3
    leaver.close()
    assert left.wait(20)
    while answers.stats.running and time.monotonic() < deadline + 20:
        time.sleep(0.01)
    assert answers.idle
    came = b""
    while piece := slow.recv(1 << 16):
        came += piece
    slow.close()
    assert came.count(b"word ") >= 199_000  # a few are cut by the borders of chunks
    answers.close()
