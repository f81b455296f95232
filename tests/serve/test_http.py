"""Connections that do not get on are ended, bad ones are answered, and a full server makes room."""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.inference import Engine, Request, Token
from nanochat.serve import ModelInfo, create_app, http, listen

GET = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"messages": [{"role": "user", "content": "hi"}]}'
ASK = POST.replace(b"/v1/completions", b"/chat/completions") + b"Connection: close\r\nContent-Length: 49\r\n\r\n" + BODY


class Served:
    """A server in a thread."""

    def __init__(self, app: Any) -> None:
        self.socket = listen("127.0.0.1", 0)
        self.address = self.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.server = http.server_of(app, 5)
        self.state = self.server.server_state
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()

    def connect(self, sent: bytes = b"") -> socket.socket:
        client = socket.create_connection(self.address, timeout=20)
        client.sendall(sent)
        return client

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


Serve = Callable[..., Served]


@pytest.fixture
def serve(engine: Engine, info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    running: list[Served] = []

    def start(engine: Engine = engine, **seconds: float) -> Served:
        for name, value in seconds.items():
            monkeypatch.setattr(http, name, value)
        running.append(Served(create_app(engine, info)))
        return running[-1]

    yield start
    for served in running:
        served.end()


def rest(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    came = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 16):
            came += data
    return came


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def test_slow_clients_are_ended(serve: Serve) -> None:
    served = serve(HEAD_SECONDS=0.5, BODY_SECONDS=0.5, IDLE_SECONDS=0.5)
    silent = served.connect()
    slow = served.connect(GET[:-2])
    body = served.connect(POST + b'Content-Length: 100\r\n\r\n{"prompt"')
    idle = served.connect(GET)
    assert idle.recv(100).startswith(b"HTTP/1.1 200")
    for client in (slow, body):
        for _ in range(3):  # that it still sends something does not help it
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                client.sendall(b"X")
    answers = [rest(client) for client in (silent, slow, body, idle)]
    assert answers[0] == b"" and b"408" not in answers[3]
    assert [status(answer) for answer in answers[1:3]] == [408, 408]
    head, _, text = answers[2].partition(b"\r\n\r\n")
    assert json.loads(text)["error"]["message"] and b"nosniff" in head and b"connection: close" in head
    assert until(lambda: not served.state.connections and not served.state.loiterers)


def test_a_body_that_is_refused_at_once_may_not_go_on_for_ever(serve: Serve) -> None:
    served = serve(BODY_SECONDS=0.5)
    client = served.connect(POST + b"Content-Length: 99000000\r\n\r\n")
    assert status(client.recv(1 << 16)) == 413

    def ended() -> bool:
        try:
            client.sendall(b"x" * 1000)
        except OSError:
            return True
        return False

    assert until(ended)


def test_the_next_request_has_its_own_time(serve: Serve) -> None:
    served = serve(HEAD_SECONDS=0.4, BODY_SECONDS=0.4)
    client = served.connect()
    for _ in range(4):
        client.sendall(GET)
        assert status(client.recv(1 << 16)) == 200
        time.sleep(0.3)
    client.sendall(GET[:10])
    assert status(rest(client)) == 408


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x16\x03\x01\x02\x00", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 70_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 300_000, 431),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nHost: evil\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
    ],
)
def test_what_is_no_request(sent: bytes, code: int, serve: Serve) -> None:
    served = serve()
    assert status(rest(served.connect(sent))) == code
    assert httpx.get(f"{served.url}/health").status_code == 200
    assert until(lambda: not served.state.loiterers)


@pytest.mark.parametrize("part", [b"GET /stats HTTP/1.1\r\nX: ", b"GET /"], ids=["header", "path"])
def test_the_headers_of_the_next_request_are_bounded(part: bytes, serve: Serve, scripted: Any) -> None:
    engine = scripted(lambda request: itertools.repeat(Token(0, "", "text", 0)))
    served = serve(engine)
    client = served.connect(ASK)
    assert until(lambda: engine.live)
    assert sent_before_the_end(client, part) < 1 << 24
    assert engine.ended.wait(20)


@pytest.mark.parametrize("path", [b"/v1/completions", b"/login", b"/nowhere"])
def test_what_follows_a_body_is_bounded(path: bytes, serve: Serve) -> None:
    served = serve()
    client = served.connect(b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % path)
    assert sent_before_the_end(client, b"1\r\nx\r\n0\r\nX-Trailer: ") < 1 << 24


def sent_before_the_end(client: socket.socket, sent: bytes) -> int:
    """Bytes, of a part that has no end, which a server takes before it closes."""
    count = 0
    with contextlib.suppress(OSError):
        client.sendall(sent)
        while count < 1 << 25:
            client.sendall(b"x" * (1 << 16))
            count += 1 << 16
            time.sleep(0.001)
    client.close()
    return count


def test_bodies_in_the_smallest_chunks(serve: Serve) -> None:
    """What frames the chunks is more than headers may have."""
    body = b'{"prompt": "a", "max_tokens": 1, "user": "%s"}' % (b"x" * 20_000)
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    client = serve().connect(POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked)
    assert status(rest(client)) == 200


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade"])
def test_an_offer_of_http_2_is_declined_and_the_body_read(name: bytes, serve: Serve) -> None:
    body = b'{"prompt": "\\r\\n\\r\\nupgrade: h2c", "max_tokens": 1, "echo": true}'
    offer = b"Connection: Upgrade, HTTP2-Settings\r\n%s: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n" % name
    ask = POST + offer + b"Content-Length: %d\r\n\r\n" % len(body) + body
    client = serve().connect(ask)
    assert b"200" in client.recv(1 << 16)[:12]
    client.sendall(ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    answer = rest(client)
    assert status(answer) == 200 and b"upgrade: h2c" in answer


@given(st.lists(st.sampled_from([GET, POST, b"Content-Length: 3\r\n", b"\r\n", b"{}", b"\xff\x00", b"X:", b" ", b"0"])))
@settings(max_examples=30, deadline=None)
def test_any_bytes(sent: list[bytes]) -> None:
    served = ANY[0]
    client = served.connect()
    with contextlib.suppress(OSError):
        for piece in sent:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
        answers = rest(client)
        assert not answers or status(answers) < 500
    client.close()
    assert httpx.get(f"{served.url}/health").status_code == 200


ANY: list[Served] = []


@pytest.fixture(autouse=True, scope="module")
def any_server(engine: Engine) -> Iterator[None]:
    ANY.append(Served(create_app(engine, ModelInfo("sft", "d2", 7, 1234))))
    yield
    ANY.pop().end()


def test_a_flood_of_idle_connections_keeps_nobody_out(serve: Serve) -> None:
    served = serve()
    served.state.limit = 8
    flood = [served.connect(*piece) for piece in [(), (GET[:9],)] * 20]
    assert httpx.get(f"{served.url}/health").status_code == 200
    assert until(lambda: len(served.state.connections) <= 8)
    assert rest(flood[0]) == b""


def test_those_that_are_answered_are_not_dropped_for_others(serve: Serve, scripted: Any) -> None:
    engine = scripted(lambda request: [Token(0, "a", "text", 0)])
    engine.may_go_on.clear()
    served = serve(engine)
    served.state.limit = 2
    asking = [served.connect(ASK) for _ in range(2)]
    assert until(lambda: len(served.state.connections) == 2 and not served.state.loiterers)
    assert rest(served.connect(GET)) == b""  # no room
    engine.may_go_on.set()
    for client in asking:
        assert b'{"done": true}' in rest(client)
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_pipelined_requests_are_answered_and_bounded(serve: Serve) -> None:
    served = serve(IDLE_SECONDS=0.5)
    assert rest(served.connect(GET * 5)).count(b"HTTP/1.1 200") == 5
    client = served.connect(GET * 5000)
    assert rest(client).count(b"HTTP/1.1 200") < 5000
    assert until(lambda: not served.state.connections)


@pytest.mark.parametrize("stream", [b"true", b"false"], ids=["streamed", "whole"])
@pytest.mark.parametrize("asked", [1, 2, 3])
def test_a_client_that_leaves_is_noticed_whatever_it_asked_for_next(
    stream: bytes, asked: int, serve: Serve, scripted: Any
) -> None:
    engine = scripted(lambda request: itertools.repeat(Token(0, "", "text", 0)))  # nothing is sent meanwhile
    served = serve(engine)
    body = b'{"prompt": "a", "stream": %s}' % stream
    client = served.connect((POST + b"Content-Length: %d\r\n\r\n" % len(body) + body) * asked)
    assert until(lambda: engine.live)
    client.close()
    assert engine.ended.wait(20)
    assert until(lambda: not engine.live and not served.state.connections and not served.state.tasks)
    assert len(engine.prompts) == 1


def test_a_client_that_reads_nothing_is_dropped(serve: Serve, scripted: Any) -> None:
    def script(request: Request) -> Iterator[Token]:
        while True:
            yield Token(0, "word " * 2000, "text", 0)
            time.sleep(0.001)

    engine = scripted(script)
    served = serve(engine, SEND_SECONDS=0.5)
    client = served.connect(ASK)
    assert engine.ended.wait(20)
    assert until(lambda: not served.state.connections)
    client.close()


def test_the_limit_of_open_files_is_kept(engine: Engine, info: ModelInfo) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(400, before[1]), before[1]))
        server = http.server_of(create_app(engine, info), 1)
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert soft >= min(before[1], 2000)
        assert 16 <= server.server_state.limit <= max(16, (soft - http.SPARE_FILES) // 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_redirect_names_the_server_as_it_sees_itself(serve: Serve) -> None:
    served = serve()
    for path in ("/v1/models/", "/stats/", "/v1/chat/completions/"):
        assert httpx.request("POST" if "chat" in path else "GET", served.url + path).status_code == 404
