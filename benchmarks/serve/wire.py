"""HTTP as bytes on a socket, right or wrong."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import Any

HOST = "127.0.0.1"
CLOSED, HUNG = 0, -1  # in place of a status: the connection ended, or nothing came in time


@dataclass
class Reply:
    """whole: to its end, as announced."""

    status: int
    headers: HTTPMessage = field(default_factory=HTTPMessage)
    body: bytes = b""
    whole: bool = True

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """Of a stream. [DONE] is left out; ValueError if it lacks."""
        *blocks, rest = self.body.decode().split("\n\n")
        data = [block.removeprefix("data: ") for block in blocks]
        if rest or (last := data.pop()) not in ("[DONE]", '{"done": true}'):
            raise ValueError(f"the stream ends with {(rest or last)[-200:]!r}")
        return [json.loads(event) for event in data]


def connect(port: int, timeout: float = 60.0, source: str = HOST, buffer: int = 0) -> socket.socket:
    """source: the client's address. buffer: bytes that the system takes in while the client does not read."""
    connection = socket.socket()
    try:
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(timeout)
        connection.bind((source, 0))
        connection.connect((HOST, port))
    except BaseException:
        connection.close()
        raise
    return connection


def request(
    path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, port: int = 0, method: str = ""
) -> bytes:
    """A whole request, after whose answer the server closes."""
    given = {"Host": f"{HOST}:{port}", "Connection": "close", **(headers or {})}
    if body is not None:
        given = {"Content-Type": "application/json", "Content-Length": str(len(body)), **given}
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + (body or b"")


def read(connection: socket.socket) -> Reply:
    """The next response."""
    response = HTTPResponse(connection)
    try:
        response.begin()
    except TimeoutError:
        return Reply(HUNG)
    except (OSError, HTTPException):
        return Reply(CLOSED)
    try:
        return Reply(response.status, response.msg, response.read())
    except TimeoutError:
        return Reply(HUNG)
    except (OSError, HTTPException):
        return Reply(response.status, response.msg, whole=False)
    finally:
        response.close()


def talk(port: int, data: bytes, timeout: float = 60.0, source: str = HOST) -> Reply:
    """Send a request on a connection of its own."""
    try:
        with connect(port, timeout, source) as connection:
            try:
                connection.sendall(data)
            except TimeoutError:
                return Reply(HUNG)
            except OSError:
                pass  # it may have answered and closed before all was sent
            return read(connection)
    except TimeoutError:
        return Reply(HUNG)
    except OSError:
        return Reply(CLOSED)


def reset(connection: socket.socket) -> None:
    """Close it at once: the other side gets an error, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
