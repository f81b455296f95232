"""Requests that no client should send. Each function sends one of its kind."""

from __future__ import annotations

import random
import socket
from typing import Any

from benchmarks.serve import wire
from benchmarks.serve.target import CHAT, PATHS, SAID, TEXT, Target, dump, valid

BROWSER = ("/", "/login", "/health", "/stats", "/metrics", "/v1/models", "/v1/models/sft-d2", "/openapi.json")
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # of a TLS client
WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
NOT_UTF8 = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80", b"\xf4\x90\x80\x80")
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 10**30, -(10**400), float("nan"), float("inf"), "", "0",
    "a" * 300, "\ud800", "\x00\x1b[2J", "<|assistant_end|>", [], {}, [[]], [None], [{}], ["a"] * 300, [-1], [10**9],
    [0] * 3000, {"type": "json_object"}, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
    [{"type": "text"}], [{"type": "input_audio", "input_audio": {}}], {"a": {"b": []}},
)  # fmt: skip
NAMES = (
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "n",
    "seed", "stop", "stream", "stream_options", "logprobs", "top_logprobs", "echo", "best_of", "suffix", "logit_bias",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "response_format", "tools", "tool_choice", "user",
    "functions", "continue_final_message", "add_generation_prompt", "modalities", "role", "content", "name", "type",
)  # fmt: skip


def too_large(target: Target, rng: random.Random) -> None:
    """Bodies and headers beyond any limit, announced or not."""
    path = rng.choice((*PATHS, "/login", "/health"))
    kind = rng.randrange(5)
    if kind == 0:  # announced only
        data = target.request(path, b"{", Content_Length=str(rng.choice((5 << 20, 1 << 40, 10**30))))
    elif kind == 1:
        data = target.request(path, b" " * (5 << 20))
    elif kind == 2:
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        head = target.request(path, b"", Transfer_Encoding="chunked").replace(b"Content-Length: 0\r\n", b"")
        data = head + piece * 80 + b"0\r\n\r\n"
    elif kind == 3:
        data = target.request(path, b"{}", X_Long="a" * rng.choice((9_000, 70_000, 2_000_000)))
    else:
        data = target.request(
            path, dump({"messages": [{"role": "user", "content": "a" * 3_000_000}], "prompt": "a" * 900_000})
        )
    target.talk("too large", data)


def malformed_json(target: Target, rng: random.Random) -> None:
    path = rng.choice(PATHS)
    whole = dump(valid(rng, path))
    at = rng.randrange(len(whole))
    deep = rng.choice((100, 10_000, 300_000))
    key = b'"prompt": ' if path == TEXT else b'"messages": '
    body = rng.choice(
        (
            whole[:at],
            whole[at:],
            whole + b"}",
            b"",
            b"null",
            b"[]",
            b"0",
            b'"',
            b"{",
            b'{"a"',
            b"NaN",
            b"\xef\xbb\xbf" + whole,
            b"[" * deep,
            b'{"a":' * deep,
            b"[" * deep + b"]" * deep,
            b"{" + key + b"[" * deep + b"]" * deep + b"}",
            b'{"max_tokens": ' + b"9" * rng.choice((400, 5000)) + b"}",
            b'{"temperature": -Infinity, ' + whole[1:],
            b'{"max_tokens": 1, "max_tokens": 2, ' + whole[1:],
            whole[:at] + b"\x00" + whole[at:],
            b'"' + b"\\u0000" * 999 + b'"',
            whole[:at] + rng.randbytes(3) + whole[at:],
            b'{"n": 1e999, ' + whole[1:],
            whole.replace(b'"', b"'"),
        )
    )
    target.talk("malformed JSON", target.request(path, body))


def not_utf8(target: Target, rng: random.Random) -> None:
    """In texts, in names, in headers and in paths."""
    path = rng.choice(PATHS)
    bad = rng.choice(
        (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", rng.randbytes(8))
    )
    whole = dump(valid(rng, path)).replace(b"how", b"ho" + bad + b"w")
    at = rng.randrange(len(whole))
    body = rng.choice((whole, whole[:at] + bad + whole[at:], whole.replace(b"prompt", b"pro" + bad), bad))
    data = target.request(path, body, **rng.choice(({}, {"Content_Type": "application/json; charset=utf-16"})))
    if rng.random() < 0.3:
        data = data.replace(b" HTTP/1.1", bad + b"?" + bad + b" HTTP/1.1", 1)
    if rng.random() < 0.3:
        data = data.replace(b"Connection", b"X-" + bad + b": " + bad + b"\r\nConnection", 1)
    target.talk("not UTF-8", data)


def malformed_http(target: Target, rng: random.Random) -> None:
    whole = target.request(rng.choice(PATHS), b"{}")
    line, _, rest = whole.partition(b"\r\n")
    chunked = whole.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked").removesuffix(b"{}")
    method = rng.choice((b"BREW", b"TRACE", b"CONNECT", b"OPTIONS", b"get", b"PUT", b"DELETE", b""))
    host = f"{wire.HOST}:{target.port}".encode()
    data = rng.choice(
        (
            rng.randbytes(200) + b"\r\n\r\n",
            HELLO + rng.randbytes(300),
            b"\r\n" * 2000,
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET http://other/ HTTP/1.1\r\n\r\n",
            b"POST " + CHAT.encode() + b" HTTP/1.0\r\n\r\n{}",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            whole.replace(b"Content-Length: 2", b"Content-Length: -2"),
            whole.replace(b"Content-Length: 2", b"Content-Length: 2\r\nContent-Length: 3"),
            whole.replace(b"Content-Length: 2", b"Content-Length: 2\r\nTransfer-Encoding: chunked"),
            chunked + b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
            chunked + b"zz\r\n{}\r\n0\r\n\r\n",
            whole.replace(b"Host", b"Hos t"),
            whole.replace(b"\r\n", b"\n"),
            line + b"\r\n" + b"A: b\r\n" * 3000 + rest,
            whole.replace(b" HTTP", b"?" + b"a" * 100_000 + b" HTTP", 1),
            whole.replace(b"Connection: close", b"Expect: 100-continue"),
            whole.replace(b"Connection: close", WEBSOCKET),
            whole.replace(
                b"Connection: close", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
            ),
            b"%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (method, rng.choice(BROWSER).encode(), host),
        )
    )
    with target.connect() as connection:
        connection.sendall(data)
        if rng.random() < 0.5:
            connection.shutdown(socket.SHUT_WR)
        connection.settimeout(rng.choice((0.2, 2.0)))
        target.note("malformed HTTP", wire.read(connection), data)


def odd_values(target: Target, rng: random.Random) -> None:
    """Of parameters, at the top and inside messages."""
    path = rng.choice(PATHS)
    body = valid(rng, path)
    for _ in range(rng.choice((1, 1, 2, 4))):
        where = body
        if "messages" in body and isinstance(body["messages"], list) and rng.random() < 0.3:
            where = {**SAID[0]}
            body["messages"] = [*SAID, where, *SAID][rng.randrange(3) :]
        where[rng.choice(NAMES)] = rng.choice(ODD)
    target.talk("odd values", target.request(path, dump(body)))


def strangers(target: Target, rng: random.Random) -> None:
    """Without the key, under another name, or from another site's page."""
    port = target.port
    kinds: list[dict[str, str]] = [
        {
            "Host": rng.choice(
                ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "localhost\x80", "0")
            )
        },
    ]
    if target.key:
        keys = ("", target.key[:-1], target.key + "x", target.key.upper(), "é", "a" * 5000)
        kinds += [{"Authorization": wrong} for wrong in ("", "Bearer", f"Basic {target.key}")]
        kinds += [{"Authorization": f"Bearer {wrong}"} for wrong in keys]
        kinds += [{"Authorization": "", "Cookie": f"nanochat={target.key}; session={target.key}"}]
    else:
        kinds += [
            {"Origin": "http://evil.example", "Sec_Fetch_Site": "cross-site"},
            {"Origin": "null"},
            {"Origin": f"http://127.0.0.1:{port + 1}", "Sec_Fetch_Site": "same-site"},
        ]
    path = rng.choice((*PATHS, "/stats", "/metrics", "/v1/models"))
    body = dump(valid(rng, path, max_tokens=2)) if path in PATHS else None
    chosen = rng.choice(kinds)
    data = target.request(path, body, **chosen)
    reply = target.talk("strangers", data)
    harmless = body is None and "Host" not in chosen and "Authorization" not in chosen
    if reply.status == 200 and not harmless:
        with target._lock:
            target.entered.append(f"{path} with {chosen}: {reply.body[:100]!r}")


def pages(target: Target, rng: random.Random) -> None:
    """What is there, what is not, and what lies outside."""
    path = rng.choice(
        (
            *BROWSER,
            "/static/../../../../etc/passwd",
            "/static/%2e%2e/%2e%2e/app.py",
            "/static//etc/passwd",
            "/static/\x00",
            "//evil.example/",
            "/v1/models/" + "a" * 5000,
            "/v1/models/%00",
            "/%ff",
            "/login?key=" + "a" * 3000,
            "/login?key=%00%0d%0a",
            "/login?key=",
            "/static/" + "a/" * 900,
            "*",
            "/?" + "a=b&" * 3000,
        )
    )
    body = (
        None
        if rng.random() < 0.7
        else rng.choice((b"key=" + b"a" * 2000, b"key=%ff%00", b"", b"=&&=", rng.randbytes(99)))
    )
    headers = {"Content_Type": "application/x-www-form-urlencoded"} if body is not None else {}
    target.talk("pages", target.request(path, body, rng.choice(("", "", "HEAD", "OPTIONS")), **headers))


ALL = (too_large, malformed_json, not_utf8, malformed_http, odd_values, strangers, pages)
