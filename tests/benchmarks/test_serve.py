"""benchmarks.serve: it measures what it says, a server that is well survives it, and one that is not is found out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serve import client, hostile, race
from benchmarks.serve.__main__ import Config, run
from benchmarks.serve.questions import Question, understood
from benchmarks.serve.wire import Reply
from nanochat.console import UserError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="servers are measured by /proc")
# A server that is broken in many ways at once.
BROKEN = """
import itertools
from nanochat.serve import access, http, openai_chat, streaming
streaming._unless_gone = lambda work, receive: work              # does not notice who has left
real = openai_chat.chat_prompt
ASKED = itertools.count()
def forgetful(engine, body, max_tokens):
    prompt = real(engine, body, max_tokens)
    return prompt[:-1] if next(ASKED) >= 50 else prompt          # after those of the quiet server
openai_chat.chat_prompt = forgetful
async def call(self, scope, receive, send):
    if scope.get("path", "").endswith("/models"):
        raise ZeroDivisionError
    scope["known"] = True
    await self.app(scope, receive, send)
access.Guard.__call__ = call                                     # lets everyone in, and fails
http.Server.handle_exit = lambda self, sig, frame: setattr(self, "should_exit", True)   # ends at once
from nanochat.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"depth": 0}, "Give --depth"),
        ({"repeats": 0}, "--repeats"),
        ({"clients": ()}, "--clients"),
        ({"clients": (8, 0)}, "--clients"),
        ({"tokens": 1}, "--tokens is 1"),
        ({"tokens": 1000}, "--tokens is 1000"),
        ({"hostile": True, "minutes": 0}, "--minutes"),
        ({"hostile": True, "cases": -1}, "--cases"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        run(Config(**settings))


@given(st.lists(st.tuples(st.text(max_size=5), st.booleans()), min_size=1, max_size=5), st.data())
def test_an_event_has_come_when_its_last_byte_has(said: list[tuple[str, bool]], data: st.DataObject) -> None:
    """However the server cuts its answer into chunks, and the network cuts those."""
    made = [json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": None}]}) for text, _ in said]
    raw, body, ends = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"", []
    for event, (_, alone) in zip(made, said, strict=True):
        body += f"data: {event}\n\n".encode()
        if alone or event is made[-1]:
            raw += b"%x\r\n%s\r\n" % (len(body), body)
            body = b""
        ends += [len(raw)] if not body else [None]
    raw += b"0\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(1, len(raw) - 1), max_size=6)))
    pieces = [
        (float(place), raw[a:b])
        for place, (a, b) in enumerate(zip([0, *cuts], [*cuts, len(raw)], strict=True))
        if b > a
    ]
    status, events = client.events(pieces)
    assert status == 200 and [event for _, event in events] == made
    assert [moment for moment, _ in events] == sorted(moment for moment, _ in events)
    for (moment, _), end in zip(events, ends, strict=True):
        if end is not None:  # the chunk's line end may come later
            arrived = b"".join(piece for at, piece in pieces if at <= moment)
            before = b"".join(piece for at, piece in pieces if at < moment)
            assert len(before) < end - 2 <= len(arrived)
    found = client.answer(pieces, 0.0)
    assert found["text"] == "".join(text for text, _ in said)
    assert len(found["at"]) == sum(bool(text) for text, _ in said)


def test_the_summary_of_a_race() -> None:
    answers = [
        {"sent": 0.0, "at": [1.0, 2.0, 4.0], "ended": 4.0, "tokens": 6},
        {"sent": 0.5, "at": [1.5, 8.0], "ended": 8.0, "tokens": 4},
        {"sent": 0.5, "at": [1.0, 5.0], "ended": 5.0, "tokens": 4},
    ]
    found = race.summary([{"answers": answers, "server_cpu_s": 7.0, "cpu_s": 0.14}])
    assert found["tokens"] == 14 and found["tokens_per_s"] == 14 / 8 and found["slowest_of_median"] == 8 / 5
    assert found["first_token"] == {"p50_ms": 1000, "p99_ms": 1000} and found["tokens_per_event"] == 2
    assert found["between_events"]["p50_ms"] == 4000 and found["between_events"]["p99_ms"] == 6500
    assert found["server_cpu_s_per_1000_tokens"] == 500 and found["client_cpu_s_per_1000_tokens"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("ends", "problem"),
    [
        ("data: [DONE]\n\n", ""),
        ("", "the stream ends with"),
        ("data: [DO", "the stream ends with"),
        ('data: {"error": {"message": "failed"}}\n\ndata: [DONE]\n\n', "failed"),
    ],
)
def test_a_stream_that_is_cut_or_failed_is_no_answer(ends: str, problem: str) -> None:
    event = 'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": null}]}\n\n'
    reply = Reply(200, body=(event * 2 + ends).encode())
    reply.headers["content-type"] = "text/event-stream"
    question = Question.of("/v1/chat/completions", stream=True)
    if problem:
        with pytest.raises(ValueError, match=problem):
            understood(question, reply)
    else:
        assert understood(question, reply)["choices"][0]["text"] == "aa"


def test_growth_of_memory() -> None:
    watch = hostile.Watch(None)  # type: ignore[arg-type]
    watch.samples = [10, 500, 900] + [1000, 1001, 1000, 999] * 3  # only the beginning grows
    assert abs(watch.growth) <= 1
    watch.samples = list(range(0, 1000, 10))
    assert watch.growth > 500


@pytest.mark.slow
def test_the_race_in_its_shortest_form(tmp_path: Path) -> None:
    small = ["--depth=1", "--clients", "3", "1", "--tokens=8", "--repeats=1"]
    call = [sys.executable, "-m", "benchmarks.serve", *small, f"--json={tmp_path / 'result.json'}"]
    subprocess.run(call, cwd=ROOT, timeout=300)  # its speed is not what is tested
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["checks"]["3: the engine's own answers"] and found["checks"]["1: the engine's own answers"]
    for count, tokens in (("3", 24), ("1", 8)):
        assert found["ours"][count]["tokens"] == found["peers"]["engine alone"][count]["tokens"] == tokens
        assert set(found["ratio"]["engine alone"]) == {"speed 3", "cpu 3", "speed 1", "cpu 1"}
        assert found["ours"][count]["first_token"]["p50_ms"] > 0


@pytest.mark.slow
def test_our_server_survives_a_short_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found, checks = hostile.attacked(minutes=0.15, cases=60, seed=3)
    failed = {name for name, holds in checks.items() if not holds}
    assert not failed, (failed, found)
    assert found["good"]["answers"] > 20 and sum(found["attacks"].values()) > 50 and found["schema"]["cases"] == 60


@pytest.mark.slow
def test_a_broken_server_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(
        hostile, "GROUPS", hostile.GROUPS[:3]
    )  # without floods, since it would answer those for minutes
    monkeypatch.setattr(hostile, "EMPTY", 10.0)
    found, checks = hostile.attacked(minutes=0.15, cases=10, seed=4, program=BROKEN)
    failed = {name for name, holds in checks.items() if not holds}
    assert failed >= {
        "no answer of 500 and above",
        "no stranger came in",
        "good clients had the answers of a quiet server",
        "the same answers afterwards",
        "clients that leave free their slots",
        "nothing failed inside",
        "told to stop, it finished its answers",
        "told to stop, it refused new ones",
    }, (failed, found)
    assert found["good"]["examples"] and found["faults"] and found["strangers"]
