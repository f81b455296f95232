"""A server that is attacked, and what its attackers have seen."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serve import wire

CHAT, TEXT, SEED = "/v1/chat/completions", "/v1/completions", "/chat/completions"
PATHS = (CHAT, TEXT, SEED)
SAID = [{"role": "user", "content": "how many?"}]
PATIENCE = 45.0  # seconds for an answer to an attack; a server may wait for the rest of a request shorter than that
SHOWN = 20  # faults that are kept


@dataclass
class Target:
    """A server, and what its attackers have seen. until: when they all have to end."""

    port: int
    key: str
    until: float
    deeds: Counter[str] = field(default_factory=Counter)
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)  # what was answered, by status
    faults: list[str] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)  # strangers who got an answer
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until

    def request(self, path: str, body: bytes | None = None, method: str = "", **headers: str) -> bytes:
        """With the right key, if headers say nothing else."""
        given = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return wire.request(path, body, given, self.port, method)

    @property
    def patience(self) -> float:
        """Seconds to wait for an answer, since nobody waits much longer than the attack goes on."""
        return max(1.0, min(PATIENCE, self.until - time.monotonic()))

    def connect(self, buffer: int = 0) -> socket.socket:
        return wire.connect(self.port, self.patience, buffer=buffer)

    def count(self, deed: str) -> None:
        with self._lock:
            self.deeds[deed] += 1

    def note(self, what: str, reply: wire.Reply, sent: bytes = b"") -> None:
        with self._lock:
            self.seen[what, reply.status] += 1
            if reply.status >= 500 and len(self.faults) < SHOWN:
                self.faults.append(f"{what}: {reply.status} {reply.body[:300]!r} to {sent[:1500]!r}")

    def talk(self, what: str, data: bytes) -> wire.Reply:
        reply = wire.talk(self.port, data, self.patience)
        self.note(what, reply, data)
        return reply


def valid(rng: random.Random, path: str, **more: Any) -> dict[str, Any]:
    """A body that may be answered, in its own way each time."""
    body: dict[str, Any] = {"temperature": rng.choice((0, 0.7, 1.5)), "max_tokens": rng.choice((1, 3, 20, 200))}
    if path != SEED:
        body |= {"stream": rng.random() < 0.5, "seed": rng.randrange(99), "n": rng.choice((1, 1, 2))}
    asked = {"prompt": "how many letters" * rng.choice((1, 30))} if path == TEXT else {"messages": SAID}
    return {**body, **asked, **more}


def dump(body: Any) -> bytes:
    """JSON that may hold halves of characters, as escapes, and NaN."""
    return json.dumps(body).encode()
