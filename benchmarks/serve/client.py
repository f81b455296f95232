"""Many clients in one process, as lean as they can be in Python: nothing is parsed before all answers have ended.

    python -m benchmarks.serve.client < job > found

job: {"host", "port", "requests": [HTTP requests as text]}, which are sent at the same time, each on a connection of its
own. found: {"cpu_s": of listening, "answers": [{"status", "sent", "at", "text", "finish", "tokens", "ended"}, ...]},
times in seconds since the first request; at: of each event that brought text.
"""

from __future__ import annotations

import gc
import json
import selectors
import socket
import sys
import time
from bisect import bisect_left
from itertools import accumulate
from typing import Any

Piece = tuple[float, bytes]  # when it came, and what


def ask(host: str, port: int, requests: list[bytes]) -> tuple[list[float], list[list[Piece]]]:
    """When each request was sent, and all that came until the server closed the connections."""
    sockets = [socket.create_connection((host, port)) for _ in requests]
    heard: list[list[Piece]] = [[] for _ in requests]
    sent = []
    with selectors.DefaultSelector() as poll:
        for connection, request, pieces in zip(sockets, requests, heard, strict=True):
            poll.register(connection, selectors.EVENT_READ, (connection, pieces))
            sent.append(time.perf_counter())
            connection.sendall(request)
        listening = len(sockets)
        while listening:
            for key, _ in poll.select():
                connection, pieces = key.data
                came = connection.recv(1 << 16)
                if came:
                    pieces.append((time.perf_counter(), came))
                else:
                    poll.unregister(connection)
                    connection.close()
                    listening -= 1
    return sent, heard


def events(pieces: list[Piece]) -> tuple[int, list[tuple[float, str]]]:
    """The status of a response, and its events with the times when they were complete."""
    raw = b"".join(came for _, came in pieces)
    ends = list(accumulate(len(came) for _, came in pieces))
    head, _, _ = raw.partition(b"\r\n\r\n")
    status, at = int(head.split(b" ", 2)[1]), len(head) + 4
    found: list[tuple[float, str]] = []
    if b"transfer-encoding: chunked" not in head.lower():
        return status, found
    text = b""
    while size := int(raw[at : raw.index(b"\r\n", at)], 16):
        start = raw.index(b"\r\n", at) + 2
        text += raw[start : start + size]
        at = start + size + 2
        *whole, text = text.split(b"\n\n")
        moment = pieces[bisect_left(ends, start + size)][0]
        found += [(moment, event.decode().removeprefix("data: ")) for event in whole]
    return status, found


def answer(pieces: list[Piece], began: float) -> dict[str, Any]:
    """What a client of /v1/chat/completions has understood."""
    if not pieces:
        return {"status": 0, "at": [], "text": "", "finish": "", "tokens": 0, "ended": 0.0}
    status, came = events(pieces)
    at, texts, finish, tokens = [], [], "", 0
    for moment, event in came:
        data = json.loads(event) if event != "[DONE]" else {}
        tokens = (data.get("usage") or {}).get("completion_tokens", tokens)
        for choice in data.get("choices", ()):
            finish = choice["finish_reason"] or finish
            if text := choice["delta"].get("content"):
                at.append(moment - began)
                texts.append(text)
    ended = pieces[-1][0] - began
    return {"status": status, "at": at, "text": "".join(texts), "finish": finish, "tokens": tokens, "ended": ended}


def main() -> None:
    job = json.load(sys.stdin)
    requests = [request.encode() for request in job["requests"]]
    gc.disable()
    before = time.process_time()
    sent, heard = ask(job["host"], job["port"], requests)
    cpu = time.process_time() - before
    answers = [{**answer(pieces, sent[0]), "sent": at - sent[0]} for at, pieces in zip(sent, heard, strict=True)]
    json.dump({"cpu_s": cpu, "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main()
