"""Well-behaved clients, who notice when an answer is not the one of a quiet server."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serve import wire
from benchmarks.serve.questions import Question, ask, questions
from benchmarks.serve.race import percentiles
from benchmarks.serve.server import Server
from benchmarks.serve.target import Target

SHOWN = 10  # examples that are kept


@dataclass
class Heard:
    """By the well-behaved clients."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    different: int = 0
    unanswered: int = 0
    examples: list[str] = field(default_factory=list)

    def compare(self, question: Question, right: Any, port: int, key: str, source: str = wire.HOST) -> None:
        found = ask(question, port, key, source)
        self.refused += found.refused
        if found.answer is None:
            self.unanswered += 1
        elif found.answer != right:
            self.different += 1
        else:
            self.seconds.append(found.seconds)
            return
        if len(self.examples) < SHOWN:
            got = found.wrong or f"{json.dumps(found.answer)[:500]} instead of {json.dumps(right)[:500]}"
            self.examples.append(f"{question.path} {question.body[:300]}: {got}")


def learn(server: Server) -> list[tuple[Question, Any]]:
    """The right answers; RuntimeError if a quiet server does not know them."""
    known = []
    for question in questions():
        first, second = (ask(question, server.port, server.key) for _ in range(2))
        if first.answer is None or first.answer != second.answer:
            raise RuntimeError(f"no answer to {question}: {first.wrong or second.wrong or 'two different ones'}")
        known.append((question, first.answer))
    return known


def behave(server: Server, known: list[tuple[Question, Any]], client: int, target: Target) -> Heard:
    heard, rng = Heard(), random.Random(client)
    while not target.over:
        heard.compare(*rng.choice(known), server.port, server.key, f"127.0.0.{2 + client}")
    return heard


def together(heard: list[Heard]) -> dict[str, Any]:
    """Of all of them; times of answers in milliseconds."""
    sums = {name: sum(getattr(one, name) for one in heard) for name in ("refused", "different", "unanswered")}
    seconds = [s for one in heard for s in one.seconds]
    examples = [example for one in heard for example in one.examples][:SHOWN]
    return {"answers": len(seconds), **sums, **(percentiles(seconds) if seconds else {}), "examples": examples}
