"""What well-behaved clients ask, each question with one right answer: that of the same server when it was quiet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.serve import wire

PATIENCE = 120.0  # seconds in which a question is asked again and again while the server is busy
LONGEST_PAUSE = 5.0  # seconds between two tries, whatever Retry-After says


@dataclass(frozen=True)
class Question:
    path: str
    body: str

    @staticmethod
    def of(path: str, **body: Any) -> Question:
        return Question(path, json.dumps(body))


@dataclass
class Answered:
    """answer: None if there was none. refused: tries that met a busy server. seconds: of the last try."""

    answer: Any
    refused: int
    seconds: float
    wrong: str = ""


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def questions() -> list[Question]:
    """Every way to ask for the same answer twice: greedy or with a seed."""
    return list(_questions())


def _questions() -> Iterator[Question]:
    chat, text = "/v1/chat/completions", "/v1/completions"
    greedy: dict[str, Any] = {"temperature": 0, "max_tokens": 48}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    for seed in range(6):
        drawn = {"temperature": 1.0, "seed": seed, "max_tokens": 20 + 10 * seed, "messages": said(f"letter {seed}?")}
        yield Question.of(chat, **drawn)
        yield Question.of(chat, **drawn, **usage)
        yield Question.of(chat, messages=said("how many words? " * (3 * seed + 1)), **greedy, **usage)
        yield Question.of(text, prompt=f"The letter {seed} ", **greedy)
        yield Question.of("/chat/completions", messages=said(f"Grüße {seed} 🙂"), **greedy)
    talk = [*said("how many letters?"), {"role": "assistant", "content": "many"}, *said("are you sure?")]
    yield Question.of(chat, messages=[{"role": "system", "content": "Be brief."}, *talk], **greedy)
    yield Question.of(chat, messages=talk, n=3, seed=7, max_tokens=30)
    yield Question.of(chat, messages=talk, n=3, seed=7, max_tokens=30, **usage)
    yield Question.of(chat, messages=talk, logprobs=True, top_logprobs=3, **greedy)
    yield Question.of(chat, messages=talk, logprobs=True, top_logprobs=2, **greedy, **usage)
    yield Question.of(chat, messages=talk, stop=["e", "word"], seed=1, max_tokens=60, **usage)
    yield Question.of(chat, messages=talk[:2], continue_final_message=True, **greedy)
    yield Question.of(text, prompt=list(range(40, 70)), echo=True, logprobs=2, temperature=0, max_tokens=4)
    yield Question.of(text, prompt=[[40, 41, 42], [43, 44]], n=2, seed=3, max_tokens=20)
    yield Question.of(text, prompt=["how", "many", "letters"], seed=3, max_tokens=20, **usage)
    yield Question.of(text, prompt="how many letters are in the word?", top_p=0.9, seed=5, max_tokens=300)


def long_questions(count: int) -> list[Question]:
    """Streams that take seconds together."""
    wanted = {"temperature": 1.0, "max_tokens": 900, "stream": True}
    return [Question.of("/v1/chat/completions", messages=said("tell me"), seed=100 + i, **wanted) for i in range(count)]


def understood(question: Question, reply: wire.Reply) -> Any:
    """What a client has learnt, without names and times, and whatever pieces it came in."""
    if "choices" not in (whole := _whole(question, reply)):
        return whole
    return {name: whole[name] for name in ("choices", "usage", "model", "object") if name in whole}


def _whole(question: Question, reply: wire.Reply) -> Any:
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        return reply.json()
    events = reply.events()
    if broken := [event for event in events if "error" in event]:
        raise ValueError(f"the stream holds {broken[0]}")
    if not question.path.startswith("/v1/"):
        return {"text": "".join(event.get("token") or event.get("text", "") for event in events)}
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    for event in events:
        usage = event.get("usage") or usage
        for piece in event["choices"]:
            one = choices.setdefault(piece["index"], {"text": "", "finish_reason": None, "logprobs": []})
            delta = piece.get("delta", piece)
            one["text"] += delta.get("content") or delta.get("text") or ""
            one["finish_reason"] = piece["finish_reason"] or one["finish_reason"]
            one["logprobs"] += (piece.get("logprobs") or {}).get("content") or []
    return {"choices": [choices[index] for index in sorted(choices)], "usage": usage}


def ask(question: Question, port: int, key: str, source: str = wire.HOST, patience: float = PATIENCE) -> Answered:
    """As a good client does: again, a little later, when the server is busy."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    data = wire.request(question.path, question.body.encode(), headers, port)
    began, refused = time.monotonic(), 0
    while True:
        tried = time.monotonic()
        reply = wire.talk(port, data, patience, source)
        seconds = time.monotonic() - tried
        if reply.status == 200 and reply.whole:
            try:
                return Answered(understood(question, reply), refused, seconds)
            except (ValueError, KeyError, TypeError) as error:
                return Answered(None, refused, seconds, f"{type(error).__name__}: {error}")
        # A connection that is closed before any answer met a full server too.
        busy = reply.status in (429, wire.CLOSED)
        if not busy or time.monotonic() - began > patience:
            body = reply.body[:300].decode(errors="replace")
            return Answered(None, refused, seconds, f"status {reply.status}, whole: {reply.whole}: {body}")
        refused += 1
        time.sleep(min(LONGEST_PAUSE, float(reply.headers.get("retry-after", 0.2))))
