"""Clients that leave, do not read, or ask for more than there is; and who attacks when. Each function is one deed."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import time
from collections.abc import Callable
from typing import Any

from benchmarks.serve import malformed, wire
from benchmarks.serve.model import TINY_WINDOW
from benchmarks.serve.target import CHAT, PATHS, SEED, TEXT, Target, dump, valid


def leaves_while_asking(target: Target, rng: random.Random) -> None:
    """In the headers or in the body."""
    path = rng.choice(PATHS)
    data = target.request(path, dump(valid(rng, path)))
    with target.connect() as connection:
        connection.sendall(data[: rng.randrange(len(data))])
        time.sleep(rng.choice((0, 0.001, 0.05)))
        _leave(connection, rng)


def leaves_while_answered(target: Target, rng: random.Random) -> None:
    """At any byte of the answer, streamed or not, or before the first one."""
    path = rng.choice(PATHS)
    more = {} if path == SEED else {"stream": rng.random() < 0.7, "n": rng.choice((1, 2, 5))}
    with target.connect() as connection:
        connection.sendall(target.request(path, dump(valid(rng, path, max_tokens=900, **more))))
        if rng.random() < 0.5:
            time.sleep(rng.random() * rng.choice((0.01, 0.5)))
        else:
            connection.settimeout(rng.choice((0.2, 2.0)))
            for _ in range(rng.choice((1, 3, 20))):
                if not connection.recv(rng.choice((1, 100, 4000))):
                    break
        _leave(connection, rng)


def _leave(connection: socket.socket, rng: random.Random) -> None:
    how = rng.randrange(3)
    if how == 0:
        wire.reset(connection)
    elif how == 1:
        connection.shutdown(socket.SHUT_WR)  # and does not wait for what comes


def pipelined(target: Target, rng: random.Random) -> None:
    """Several requests at once on one connection, and then perhaps nobody to read all the answers."""
    paths = rng.choices(PATHS, k=rng.randrange(2, 12))
    data = b"".join(
        target.request(path, dump(valid(rng, path, max_tokens=5)), Connection="keep-alive") for path in paths[1:]
    )
    data += target.request(paths[0], dump(valid(rng, paths[0], max_tokens=5)))
    enough = rng.choice((0, 1, 1 << 30))  # bytes
    came = b""
    with target.connect() as connection:
        connection.sendall(data)
        while len(came) < enough and (more := connection.recv(1 << 16)):
            came += more
        _leave(connection, rng)
    for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", came):
        target.note("pipelined", wire.Reply(int(status), body=came), data)


def slow_reader(target: Target, rng: random.Random) -> None:
    """Asks for much, and takes it a few bytes at a time, or not at all. The server may lose its patience."""
    path = rng.choice(PATHS)
    more: dict[str, Any] = {"max_tokens": 900, "temperature": 1.0}
    if path == CHAT:
        more |= {"n": rng.choice((1, 4)), "logprobs": True, "top_logprobs": 20, "stream": rng.random() < 0.8}
    elif path == TEXT:
        more |= {"n": rng.choice((1, 4)), "logprobs": 5, "stream": rng.random() < 0.8}
    ends = min(target.until, time.monotonic() + rng.choice((2, 10, 40)))
    reads = rng.random() < 0.6
    with target.connect(buffer=2048) as connection:
        connection.sendall(target.request(path, dump(valid(rng, path, **more))))
        while time.monotonic() < ends:
            time.sleep(0.1)
            if reads and not connection.recv(rng.choice((1, 50, 500))):
                break
        _leave(connection, rng)


def slow_sender(target: Target, rng: random.Random) -> None:
    """A slow loris: a byte now and then, of headers or of a body, on a few connections."""
    path = rng.choice(PATHS)
    data = target.request(path, dump(valid(rng, path, max_tokens=2)))
    begun = data[: rng.choice((1, 20, data.index(b"\r\n\r\n") + 5))]
    connections = [target.connect() for _ in range(rng.randrange(1, 20))]
    ends = min(target.until, time.monotonic() + rng.choice((5, 20, 50)))
    try:
        for connection in connections:
            connection.sendall(begun)
        at = len(begun)
        while time.monotonic() < ends and at < len(data) - 1:
            time.sleep(0.5)
            for connection in connections:
                connection.sendall(data[at : at + 1])
            at += 1
    finally:
        for connection in connections:
            connection.close()


def token_flood(target: Target, rng: random.Random) -> None:
    """More answers than there is room for, each as long and as many as may be asked for. Some wait for them."""
    connections = []
    try:
        for _ in range(rng.choice((20, 100, 300))):
            path = rng.choice(PATHS)
            more: dict[str, Any] = {"max_tokens": TINY_WINDOW, "temperature": 1.5}
            if path == CHAT:
                more["n"] = rng.choice((1, 4, 16))
            elif path == TEXT:
                more["prompt"] = rng.choice(("how", ["how many"] * rng.choice((4, 64, 256)), list(range(256)) * 3))
            data = target.request(path, dump(valid(rng, path, **more)))
            connections.append((target.connect(buffer=rng.choice((0, 4096))), data))
            connections[-1][0].sendall(data)
        time.sleep(rng.random() * 4)
        for connection, data in rng.sample(connections, 10):
            connection.settimeout(0.5)
            target.note("token flood", wire.read(connection), data)
    finally:
        for connection, _ in connections:
            _leave(connection, rng)
            connection.close()


def largest_answers(target: Target, rng: random.Random) -> None:
    """Several at once, each of megabytes, which the server has to hold until it is complete."""
    most: dict[str, Any] = {"n": 4, "max_tokens": 900, "temperature": 1.0, "stream": False}
    data = target.request(CHAT, dump(valid(rng, CHAT, **most, logprobs=True, top_logprobs=20)))
    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(target.connect()) for _ in range(rng.choice((1, 4, 8)))]
        for connection in connections:
            connection.sendall(data)
        for connection in connections:
            target.note("largest answers", wire.read(connection), data)


def connection_flood(target: Target, rng: random.Random) -> None:
    """Hundreds of connections that say nothing, or the beginning of something."""
    connections = []
    try:
        for _ in range(rng.choice((100, 400, 800))):
            connections.append(target.connect())
            if rng.random() < 0.3:
                connections[-1].sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n")
        time.sleep(rng.random() * 3)
    finally:
        for connection in connections:
            connection.close()


Attack = Callable[[Target, random.Random], None]
# Who does what: each group of attackers is so many threads, which pause for up to so many seconds after a deed.
GROUPS: tuple[tuple[int, float, tuple[Attack, ...]], ...] = (
    (6, 0.05, (leaves_while_asking, leaves_while_answered, pipelined, *malformed.ALL)),
    (6, 0.5, (slow_reader,)),
    (2, 0.5, (slow_sender,)),
    (1, 12.0, (token_flood,)),
    (1, 12.0, (largest_answers,)),
    (1, 12.0, (connection_flood,)),
)


def attack(seed: int, target: Target, pause: float, deeds: tuple[Attack, ...]) -> None:
    """One attacker, until all have to end."""
    rng = random.Random(seed)
    while not target.over:
        deed = rng.choice(deeds)
        target.count(deed.__name__)
        with contextlib.suppress(OSError):  # the server may close the connection
            deed(target, rng)
        time.sleep(min(rng.random() * pause, max(0.0, target.until - time.monotonic())))
