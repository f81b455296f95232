"""uvicorn's side: no client holds a connection without using it, and SIGTERM lets the running answers finish.

Every connection has a time by which it must get on; once a second, those whose time is up are ended. When there are as
many connections as may be, a new one takes the place of the one that has waited longest to send a whole request.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from nanochat.console import end
from nanochat.serve.access import HEADERS, refusal

HEAD_SECONDS = 15.0  # from a request's first byte, or the connection's begin, to the end of its headers
BODY_SECONDS = 30.0  # from there to the end of its body
IDLE_SECONDS = 60.0  # between two requests: longer than clients keep connections, so that they close them
SEND_SECONDS = 30.0  # that a client may read nothing
MAX_HEAD = 1 << 16  # bytes of a request's first line and headers, or of any part that the parser has not understood
MAX_HEADERS = 100
MAX_PIPELINED = 8  # requests that a client may send before it has the answer to the first
MAX_CONNECTIONS = 1024
SPARE_FILES = 256  # open files that are not connections
LAST_SECONDS = 5.0  # for the last bytes to arrive, after all answers are made
# Java's client offers HTTP/2 so with every request. The parser would take the body for that, and the offer is declined.
OFFER = re.compile(rb"(?<=\r\n)upgrade(?=:)", re.IGNORECASE)


class Crowd(ServerState):
    """All connections. `loiterers` are those that have not sent a whole request, the longest waiting first."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.loiterers: dict[Connection, None] = {}

    def make_room(self, newcomer: Connection) -> None:
        if len(self.connections) > self.limit:
            next((one for one in self.loiterers if one is not newcomer), newcomer).drop()

    def sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.check(now)  # type: ignore[union-attr]


class Connection(HttpToolsProtocol):
    """A client's connection. It waits for headers, then for a body, then for the answer, then for the next request."""

    server_state: Crowd

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.phase = "head"  # body, answer, idle
        self.until = math.inf  # when it must have got on, by the monotonic clock
        self.stalled = math.inf  # since when the client has read nothing
        self.parsed = 0  # headers, pieces of bodies and ends of requests that the parser has told of
        self.head_bytes = 0  # of a part that it has not: headers, or what comes after a body
        self.problem = 400  # what to answer if the parser stops
        self.cycles: list[RequestResponseCycle] = []  # whose answers are not complete; uvicorn keeps the newest alone

    # ---- phases ------------------------------------------------------------------------------------------------

    def _enter(self, phase: str, seconds: float) -> None:
        self.phase = phase
        self.until = time.monotonic() + seconds
        if phase == "answer":
            self.server_state.loiterers.pop(self, None)
        else:
            self.server_state.loiterers.setdefault(self)

    def check(self, now: float) -> None:
        if self.transport.is_closing():  # and what is left to send cannot be sent
            self.stalled = min(self.stalled, now)
        if now - self.stalled > SEND_SECONDS:
            self.drop()
        elif now > self.until and not self.transport.is_closing():
            if self.phase == "idle" or (self.phase == "head" and not self.head_bytes):
                self.transport.close()
            else:
                self._refuse(408, "the request did not arrive in time")

    def drop(self) -> None:
        self.server_state.loiterers.pop(self, None)
        self.transport.abort()

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close, however far the request is."""
        if any(cycle.response_started and not cycle.response_complete for cycle in self.cycles):
            self.drop()  # in the middle of another answer
            return
        self._tell_gone()
        if self.phase != "body" or not self.cycle.response_complete:
            path = self.scope.get("path", "") if self.scope else ""
            self.transport.write(_plain(status, message, path))
        self.transport.close()

    def _tell_gone(self) -> None:
        """All that is being answered, or waits for that: the client does not listen any more."""
        for cycle in self.cycles:
            cycle.disconnected |= not cycle.response_complete
            cycle.message_event.set()

    # ---- what asyncio calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._enter("head", HEAD_SECONDS)
        self.server_state.make_room(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.loiterers.pop(self, None)
        self._tell_gone()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self.parser is None:
            return
        if self.phase == "idle":
            self._enter("head", HEAD_SECONDS)
        if self.phase == "head":
            head, end, body = data.partition(b"\r\n\r\n")
            data = OFFER.sub(b"offered", head) + end + body
        parsed = self.parsed
        super().data_received(data)
        if self.parsed == parsed and not self.transport.is_closing():
            self.head_bytes += len(data)
            if self.head_bytes > MAX_HEAD:
                self._refuse(431, "the headers are too large")

    def pause_writing(self) -> None:
        self.stalled = min(self.stalled, time.monotonic())
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stalled = math.inf
        super().resume_writing()

    # ---- what the parser calls; an exception stops it ----------------------------------------------------------

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError
        super().on_message_begin()
        self.head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == "body":  # a trailer; nothing here needs one
            raise ValueError
        if len(self.headers) >= MAX_HEADERS:
            self.problem = 431
            raise ValueError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            self.problem = 431
            raise ValueError
        super().on_headers_complete()
        self.parsed += 1
        self._enter("body", BODY_SECONDS)
        self.cycles = [*(cycle for cycle in self.cycles if not cycle.response_complete), self.cycle]
        if 0 < len(self.pipeline) < MAX_PIPELINED:
            self.flow.resume_reading()  # while nothing is read, nobody notices that the client has left

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self.parsed += 1
        self.head_bytes = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.parsed += 1
        if self.cycle.response_complete:  # it was refused before its body had come
            self._enter("idle", IDLE_SECONDS)
        else:
            self._enter("answer", math.inf)

    def send_400_response(self, msg: str) -> None:
        self._refuse(self.problem, "the headers are too large" if self.problem == 431 else "this is not a request")

    # ---- what an answer calls ----------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unset_keepalive_if_required()  # checked here, since uvicorn's is forgotten when more of a body comes
        if self.phase == "answer" and self.cycle.response_complete:
            self._enter("idle", IDLE_SECONDS)


def _plain(status: int, message: str, path: str) -> bytes:
    """A whole HTTP answer, after which the connection is closed."""
    body = refusal(path, status, message, "bad_request").body
    headers = {**HEADERS, b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()), b"connection: close"]
    return b"\r\n".join([*lines, *(name + b": " + value for name, value in headers.items()), b"", bytes(body)])


class Server(uvicorn.Server):
    """SIGTERM: new requests are refused, and the server ends when it is idle or `drain_seconds` have passed. Ctrl-C
    ends it now, and so does a second SIGTERM.

    drain: told once to accept no more. idle: whether nothing runs or waits.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        limit: int,
        drain: Callable[[], object],
        idle: Callable[[], bool],
        drain_seconds: float,
    ) -> None:
        super().__init__(config)
        self.server_state: Crowd = Crowd(limit)
        self._drain, self._idle = drain, idle
        self._drain_seconds = drain_seconds
        self._signals: list[int] = []
        self._deadline = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._signals:
            end(128 + sig)
        self._signals.append(sig)  # acted on in on_tick: here, the code that was interrupted may hold a lock

    async def on_tick(self, counter: int) -> bool:
        now = time.monotonic()
        if counter % 10 == 0:  # about once a second
            self.server_state.sweep()
        if self._signals and self._deadline == math.inf:
            self._drain()
            self._deadline = now + (self._drain_seconds if self._signals == [signal.SIGTERM] else 0)
        if now > self._deadline or (self._deadline < math.inf and self._idle()):
            self.config.timeout_graceful_shutdown = math.ceil(max(0.0, min(LAST_SECONDS, self._deadline - now)))
            # uvicorn would show a traceback for each answer that is cut off.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            self.should_exit = True
        return await super().on_tick(counter)


def run(app: FastAPI, server: socket.socket, drain_seconds: float = 30.0) -> None:
    """Serve on a listening socket until SIGTERM or Ctrl-C. The app's `state.answers` are drained first."""
    gc.collect()
    gc.freeze()  # what is loaded stays: to look through it for garbage takes 0.2 s, in which nobody gets a token
    server_of(app, drain_seconds).run(sockets=[server])


def server_of(app: FastAPI, drain_seconds: float) -> Server:
    limit = max(16, min(MAX_CONNECTIONS, (_open_files() - SPARE_FILES) // 2))
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="error",  # what a client does wrong is told to the client alone
        access_log=False,  # it would hold the key of a link
        proxy_headers=False,  # whoever connects from this machine could take any address
        server_header=False,
        backlog=limit,  # of these, too, as many may be accepted at once
        timeout_graceful_shutdown=0,
    )
    answers = app.state.answers
    return Server(config, limit, answers.drain, lambda: answers.idle, drain_seconds)


def _open_files() -> int:
    """How many files this process may have open, raised as far as the system lets it."""
    if os.name != "posix":
        return 2 * MAX_CONNECTIONS + SPARE_FILES
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 2 * MAX_CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < want:
        soft = want if hard == resource.RLIM_INFINITY else min(hard, want)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return want if soft == resource.RLIM_INFINITY else soft
