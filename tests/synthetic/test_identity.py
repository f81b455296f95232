"""Conversations about who the model is: from templates, and through an endpoint on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.commands import identity
from nanochat.console import UserError
from nanochat.synthetic.identity import Endpoint, Meter, Persona, conversations, extend, phrases
from nanochat.synthetic.identity.endpoint import ANSWER_TOKENS, LONGEST_BODY
from nanochat.synthetic.identity.meter import path_of
from nanochat.synthetic.identity.persona import words_of
from nanochat.synthetic.identity.writing import MOST_REFUSED, _mistaken, parse
from nanochat.tasks import CustomJSON

ADA = Persona("Ada", "Jo Doe")
KEY = "sk-secret-0123456789"
INTENTS = [intent for group, _ in phrases.GROUPS for intent in group]


def said(conversation: dict[str, Any], role: str = "assistant") -> list[str]:
    return [message["content"] for message in conversation["messages"] if message["role"] == role]


# Templates


def test_a_seed_gives_the_same_conversations_and_more_begin_alike() -> None:
    assert conversations(ADA, 50) == conversations(ADA, 50) == conversations(ADA, 80)[:50]
    assert conversations(ADA, 50) != conversations(ADA, 50, seed=1)


def test_they_are_many_and_different() -> None:
    found = conversations(ADA, 3000)
    assert len(set(map(words_of, found))) == 3000
    questions = [text for one in found for text in said(one, "user")]
    answers = [text for one in found for text in said(one)]
    assert len(set(questions)) > 2500
    assert len(set(answers)) > 400
    assert {len(said(one)) for one in found} == {1, 2, 3, 4, 5}
    assert 200 < sum(one["messages"][0]["role"] == "system" for one in found) < 400
    assert sum(question == question.lower() for question in questions) > 300
    for group, share in phrases.GROUPS:  # every kind of question is asked, about as often as it should be
        asked = {re.sub(r"\{\w+\}", "", q).lower().strip(" ?!.") for intent in group for q in intent.questions}
        hits = sum(any(part in q.lower() for part in asked) for q in questions[:1000])
        assert hits > 1000 * share / 3


def test_it_is_always_itself() -> None:
    found = conversations(ADA, 3000)
    assert [one for one in found if _mistaken(said(one), ADA)] == []
    texts = " ".join(text for one in found for text in said(one))
    assert texts.count("Ada") > 1500 and texts.count("Jo Doe") > 800
    assert "{" not in texts and "}" not in texts
    openai = Persona("Helper", "OpenAI")
    names = {name for name, _ in openai.others()}
    assert names and not names & {"ChatGPT", "GPT-4"}
    assert not any("ChatGPT" in text for one in conversations(openai, 500) for text in said(one, "user"))


def test_the_templates_are_sound() -> None:
    values = {"name": "N", "maker": "M", "Maker": "M", "kind": "k", "other": "O", "other_maker": "P"}
    for intent in (*INTENTS, phrases.GOODBYE):
        assert len(set(intent.questions)) == len(intent.questions) >= 4
        assert len(set(intent.answers)) == len(intent.answers) >= 2
        for text in (*intent.questions, *intent.answers):
            assert text.format(**values).strip() == text.format(**values)
        # The first letter becomes small behind "So, ".
        assert not any(re.match(r"\{|I['’]", question) for question in intent.questions)
        if any("{other" in text for text in intent.answers):
            assert any("{other" in text for text in intent.questions)


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30), st.integers(0, 9))
def test_any_printable_name_will_do(tmp_path_factory: pytest.TempPathFactory, name: str, maker: str, seed: int) -> None:
    sound = all(text.strip() and text.isprintable() for text in (name, maker))
    if not sound:
        with pytest.raises(UserError, match="printable"):
            Persona(name, maker)
        return
    path = tmp_path_factory.mktemp("names") / "x.jsonl"
    from nanochat.synthetic.identity import save

    found = conversations(Persona(name, maker), 20, seed)
    save(found, path)
    assert [one.to_dict() for one in CustomJSON(path)] == found


def test_too_many_are_refused() -> None:
    one = phrases.Intent(("Who?",), ("I.",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanochat.synthetic.identity.persona._intents", lambda rng: [one])
        patch.setattr("nanochat.synthetic.identity.persona.DULL", 2)
        with pytest.raises(UserError, match="different conversations, not 1,000"):
            conversations(ADA, 1000)


def test_the_command_writes_a_whole_file_and_spares_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    config = identity.Config("Ada", "Jo Doe", size=30)
    identity.run(config)
    out = tmp_path / "identity_conversations.jsonl"
    first = out.read_bytes()
    assert len(CustomJSON(out)) == 30
    assert "30 conversations" in capsys.readouterr().out
    identity.run(config)  # the same again is fine
    with pytest.raises(UserError, match="holds something else.*--overwrite"):
        identity.run(identity.Config("Bob", "Jo Doe", size=30))
    assert out.read_bytes() == first
    identity.run(identity.Config("Bob", "Jo Doe", size=30, overwrite=True))
    assert b"Bob" in out.read_bytes() and b"Ada" not in out.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--name=Ada\nEve", "--maker=Jo"], "printable"),
        (["--name=", "--maker=Jo"], "--name is ''"),
        (["--name=Ada", "--maker=Jo", "--size=0"], "--size is 0"),
        (["--name=Ada", "--maker=Jo", "--parallel=0"], "--parallel is 0"),
        (["--name=Ada", "--maker=Jo", "--max_tokens=-1"], "--max_tokens is -1"),
        (["--name=Ada", "--maker=Jo", "--max_dollars=1"], "--input_price"),
        (["--name=Ada", "--maker=Jo", "--max_dollars=nan"], "--max_dollars is nan"),
        (["--name=Ada", "--maker=Jo", "--base_url=http://127.0.0.1:1/v1"], "Add --model"),
        (["--name=Ada", "--maker=Jo", "--base_url=127.0.0.1:1", "--model=m"], "no address"),
        (["--name=Ada", "--maker=Jo", "--base_url=ftp://a/v1", "--model=m"], "no address"),
        (["--name=Ada", "--maker=Jo", "--base_url=http://127.0.0.1:1/v 1", "--model=m"], "no address"),
        (["--name=Ada", "--maker=Jo", "--base_url=http://127.0.0.1:1/\nv1", "--model=m"], "no address"),
        (["--name=Ada", "--maker=Jo", "--base_url=https://me:pw@a/v1", "--model=m"], "password"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    problem: str,
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["identity", *flags])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            identity.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert problem in error and error.count("\n") == 1 and "pw" not in error
    assert list(tmp_path.iterdir()) == []


def test_without_the_client_the_command_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["identity", "--name=Ada", "--maker=Jo", "--size=5"])
    identity.main()  # templates need no client
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--base_url=http://127.0.0.1:1/v1", "--model=m"])
    with pytest.raises(SystemExit) as stop:
        identity.main()
    assert stop.value.code == 2
    assert "Run pip install -U openai" in capsys.readouterr().err


# An endpoint

Answer = tuple[int, dict[str, str], bytes]


def good(number: int) -> str:
    return json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"Question {number}?"},
                {"role": "assistant", "content": f"I'm Ada. Answer {number}."},
            ]
        }
    )


def completion(text: Any, usage: Any = None) -> bytes:
    usage = {"prompt_tokens": 300, "completion_tokens": 50} if usage is None else usage
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}).encode()


class Server(ThreadingHTTPServer):
    """Answers each request with a new good conversation, or with the next of `script`; "drop" and "short" break off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Answer | str] = []
        self.newer_only = False  # refuses requests with the older name of the answer's length
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.make: Callable[[int], bytes] = lambda number: completion(good(number))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append({"path": self.path, **body})
            self.server.headers.append(dict(self.headers))
            what: Answer | str = self.server.script.pop(0) if self.server.script else "good"
            if self.server.newer_only and "max_tokens" in body:
                what = (400, {}, b"Unsupported parameter: use max_completion_tokens")
        if what == "drop":
            self.close_connection = True
            return
        status, headers, data = (200, {}, self.server.make(number)) if isinstance(what, str) else what
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) + 9 * (what == "short")))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.002)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: Server, out: Path, size: int = 10, parallel: int = 4, persona: Persona = ADA, **limits: Any) -> Meter:
    endpoint, meter = Endpoint(server.url, "m"), Meter(out, str(persona), **limits)
    extend(out, persona, size, endpoint, meter, 0, parallel)
    return meter


def test_it_asks_for_different_things_and_writes_what_comes(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "new" / "x.jsonl"
    meter = ask(server, out, 30)
    assert len(CustomJSON(out)) == 30 == len(server.bodies)
    prompts = [body["messages"][0]["content"] for body in server.bodies]
    assert len(set(prompts)) == 30
    assert all("called Ada, was made by Jo Doe, and is a small language model" in prompt for prompt in prompts)
    for body, headers in zip(server.bodies, server.headers, strict=True):
        assert body["path"] == "/v1/chat/completions"
        assert (body["model"], body["max_tokens"]) == ("m", ANSWER_TOKENS)
        assert headers["Authorization"] == f"Bearer {KEY}"
    assert meter.tokens == 30 * 350
    assert KEY not in out.read_text() + meter.path.read_text()


def test_without_a_key_none_is_sent(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    ask(server, tmp_path / "x.jsonl", 1)
    assert "Authorization" not in server.headers[0]
    monkeypatch.setenv("OPENAI_API_KEY", "two words\nof it")
    with pytest.raises(UserError, match="OPENAI_API_KEY holds") as error:
        Endpoint(server.url, "m")
    assert "words" not in str(error.value)


def test_a_rerun_goes_on_and_asks_for_nothing_twice(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    ask(server, out, 5)
    first = out.read_bytes()
    with open(out, "ab") as file:
        file.write(b'{"messages": [{"role": "us')  # as a killed run leaves it
    meter = ask(server, out, 12)
    assert out.read_bytes().startswith(first)
    assert len(CustomJSON(out)) == 12
    assert len({body["messages"][0]["content"] for body in server.bodies}) == 12
    assert meter.tokens == 12 * 350
    ask(server, out, 12)
    assert len(server.bodies) == 12
    out.write_bytes(out.read_bytes().removesuffix(b"\n"))  # as some editors leave it
    ask(server, out, 13)
    assert len(CustomJSON(out)) == len(server.bodies) == 13
    with pytest.raises(UserError, match="holds conversations of Ada"):
        ask(server, out, 20, persona=Persona("Bob", "Jo Doe"))


def test_files_of_others_are_left_alone(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.jsonl"
    out.write_text("mine\n")
    with pytest.raises(UserError, match="was not written through an endpoint"):
        ask(server, out)
    out.unlink()
    ask(server, out, 2)
    paid = out.read_bytes()
    with pytest.raises(UserError, match="begun through an endpoint"):
        identity.run(identity.Config("Ada", "Jo Doe", size=2, out=out, overwrite=True))
    assert out.read_bytes() == paid
    out.write_text("not JSON\n")
    with pytest.raises(UserError, match="is damaged"):
        ask(server, out)
    path_of(out).write_text("[]")
    with pytest.raises(UserError, match="is damaged"):
        ask(server, out)
    assert len(server.bodies) == 2


@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("limits", [{"max_tokens": 20_000}, {"max_dollars": 0.02, "prices": (1.0, 1.0)}])
def test_a_limit_is_never_crossed_and_a_higher_one_goes_on(
    server: Server, tmp_path: Path, limits: dict[str, Any], parallel: int
) -> None:
    server.make = lambda number: completion(good(number), {"prompt_tokens": 1000, "completion_tokens": 1500})
    out = tmp_path / "x.jsonl"
    with pytest.raises(UserError, match="is reached: .* of 100 conversations.*higher limit"):
        ask(server, out, 100, parallel, **limits)
    written = len(CustomJSON(out))
    assert 5 <= written <= 8
    state = json.loads(path_of(out).read_text())
    assert state["tokens"] == written * 2500 <= 20_000
    assert len(server.bodies) == written
    with pytest.raises(UserError, match="is reached"):  # over all runs
        ask(server, out, 100, parallel, **limits)
    assert len(CustomJSON(out)) == written
    more = {key: value * 2 if key != "prices" else value for key, value in limits.items()}
    with pytest.raises(UserError, match="is reached"):
        ask(server, out, 100, parallel, **more)
    assert len(CustomJSON(out)) > written


def test_a_server_that_does_not_count_tokens_is_counted_for(server: Server, tmp_path: Path) -> None:
    server.make = lambda number: completion(good(number), {"prompt_tokens": "many"})
    meter = ask(server, tmp_path / "x.jsonl", 1)
    prompt = server.bodies[0]["messages"][0]["content"]
    assert meter.tokens >= len(prompt.encode()) + len(good(0).encode())


def test_a_senseless_count_of_tokens_is_none(server: Server, tmp_path: Path) -> None:
    for number, count in enumerate((10**400, -1, True, 1.5)):
        server.make = lambda n, number=number, count=count: completion(good(number), {"prompt_tokens": count})
        meter = ask(server, tmp_path / "x.jsonl", number + 1, parallel=1, prices=(1.0, 1.0))
        assert 500 * (number + 1) < meter.tokens < 10_000


def test_an_answer_that_a_gateway_did_not_wait_for_counts_in_full(server: Server, tmp_path: Path) -> None:
    """It may have been written, and paid for, all the same."""
    for number, status in enumerate((408, 504, 524)):
        server.script = [(status, {}, b"")]
        meter = ask(server, tmp_path / "x.jsonl", number + 1, parallel=1)
        assert meter.tokens > (number + 1) * (350 + ANSWER_TOKENS)


BUSY: list[Answer | str] = [
    (429, {"Retry-After": "0"}, b"slow down"),
    (500, {}, b"oh"),
    "drop",
    (503, {}, b""),
    "short",
    (408, {}, b""),
]


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.script = list(BUSY)
    out = tmp_path / "x.jsonl"
    meter = ask(server, out, 3, parallel=1)
    assert len(CustomJSON(out)) == 3
    assert len(server.bodies) == 3 + len(BUSY)
    # Refused requests cost nothing; what broke off may have been paid for, and counts in full.
    assert meter.tokens > 3 * 350 + 2 * ANSWER_TOKENS


def test_the_wait_is_as_long_as_the_server_asks_and_grows(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    server.script = [(429, {"Retry-After": "7"}, b""), *[(500, {}, b"")] * 3]
    endpoint = Endpoint(server.url, "m")
    monkeypatch.undo()  # the client's own pauses
    monkeypatch.setattr("openai._base_client.random", lambda: 0.0)
    monkeypatch.setattr("openai._base_client.time", SimpleNamespace(sleep=waits.append, time=time.time))
    endpoint.ask([{"role": "user", "content": "x"}], Meter(tmp_path / "x", "x"))
    assert waits == [7.0, 1.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("answer", "problem", "requests"),
    [
        ((401, {}, f"Incorrect key: {KEY}".encode()), "status 401: Incorrect key: (the key)", 1),
        ((400, {}, b"no such model"), "status 400: no such model", 1),
        ((429, {}, b'{"code": "insufficient_quota"}'), "insufficient_quota", 1),
        ((307, {"Location": "http://127.0.0.1:1/"}, b""), "status 307", 1),
        ((302, {"Location": "/v1/elsewhere"}, b""), "status 302", 1),
        ((200, {}, b"<html>"), "gives no answer", 1),
        ((200, {}, b"[]"), "without choices", 1),
        ((200, {}, b'{"choices": [{"message": null}]}'), "without choices", 1),
        ((200, {}, completion(7)), "hold no text", 1),
        ((200, {}, b"[" * 100_000), "gives no answer", 1),
        ((500, {}, b"oh"), "status 500: oh", 11),
        ("drop", "gives no answer", 11),
    ],
)
def test_what_waiting_does_not_help_ends_the_command(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answer: Answer | str,
    problem: str,
    requests: int,
) -> None:
    out = tmp_path / "x.jsonl"
    ask(server, out, 2, parallel=1)
    server.script = [answer] * 20
    with pytest.raises(UserError) as error:
        ask(server, out, 9, parallel=1)
    assert problem in str(error.value) and "holds 2 of 9 conversations" in str(error.value)
    assert KEY not in str(error.value) + capsys.readouterr().out
    assert len(server.bodies) == 2 + requests
    assert len(CustomJSON(out)) == 2


def test_nobody_there(tmp_path: Path, server: Server) -> None:
    meter = Meter(tmp_path / "x.jsonl", str(ADA), max_tokens=5000)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen
        endpoint = Endpoint(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1", "m")
        with pytest.raises(UserError, match="gives no answer"):
            extend(tmp_path / "x.jsonl", ADA, 2, endpoint, meter, 0, 1)
    assert meter.tokens == 0  # what was never sent costs nothing


def test_the_newer_name_of_the_answers_length(server: Server, tmp_path: Path) -> None:
    server.script = [(400, {}, b"Unsupported parameter: use max_completion_tokens")]
    ask(server, tmp_path / "x.jsonl", 3, parallel=1)
    assert [sorted(set(body) & {"max_tokens", "max_completion_tokens"}) for body in server.bodies] == [
        ["max_tokens"],
        *[["max_completion_tokens"]] * 3,
    ]


def test_the_newer_name_when_several_ask_at_once(server: Server, tmp_path: Path) -> None:
    server.newer_only = True
    ask(server, tmp_path / "x.jsonl", 4, parallel=4)
    refused = sum("max_tokens" in body for body in server.bodies)  # by as many as began before the first refusal
    assert 1 <= refused <= 4 and len(server.bodies) == refused + 4


def test_an_answer_without_end_is_not_read_to_it(server: Server, tmp_path: Path) -> None:
    server.script = [(200, {}, b" " * (LONGEST_BODY + 1))]
    with pytest.raises(UserError, match="more than a conversation"):
        ask(server, tmp_path / "x.jsonl", 1)
    assert len(server.bodies) == 1


BAD = [
    "",
    "I cannot do that.",
    "{",
    "[" * 100_000,
    '{"messages": 3}',
    '{"messages": [3]}',
    '{"messages": [{"role": "user", "content": "a"}]}',
    '{"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "I\'m Ada"}]}',
    '{"messages": [{"role": "robot", "content": "a"}, {"role": "assistant", "content": "I\'m Ada"}]}',
    '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "I\'m Ada"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "I know nothing"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Ada \\ud800"}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Ada. I am Claude."}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "I\'m Ada, made by OpenAI."}]}',
    '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Ada \\u001b[2J"}]}',
    '{"messages": [{"role": "user", "content": "a\\u0000"}, {"role": "assistant", "content": "Ada"}]}',
    json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Ada " * 1000}]}),
    json.dumps(
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "Ada"},
            ]
        }
    ),
]


@pytest.mark.parametrize("answer", BAD)
def test_bad_answers_say_why(answer: str) -> None:
    assert isinstance(parse(answer, ADA), str)


def test_good_answers_in_any_dress() -> None:
    expected = json.loads(good(1))
    for answer in (good(1), f"```json\n{good(1)}\n```", f"Sure! Here it is: {good(1)} Have fun."):
        assert parse(answer, ADA) == expected
    denial = "I'm Ada, not made by OpenAI. I was never trained by Google! They made Gemini."
    answer = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": denial}]})
    assert isinstance(parse(answer, ADA), dict)
    assert isinstance(parse(answer.replace("not made", "made"), Persona("Ada", "OpenAI")), dict)


nested = st.recursive(
    st.none() | st.text(max_size=5),
    lambda x: (
        st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(["messages", "role", "content"]), x, max_size=3)
    ),
    max_leaves=8,
)


@given(st.text(max_size=60) | nested.map(json.dumps))
def test_no_answer_breaks_the_parser(answer: str) -> None:
    assert isinstance(parse(answer, ADA), str | dict)


def test_bad_and_repeated_answers_are_left_out(server: Server, tmp_path: Path) -> None:
    server.script = [*[(200, {}, completion(bad)) for bad in BAD], *[(200, {}, completion(good(999)))] * 3]
    out = tmp_path / "x.jsonl"
    ask(server, out, 6, parallel=1)
    assert len(CustomJSON(out)) == 6
    assert len(server.bodies) == len(BAD) + 3 + 5


def test_a_model_that_never_writes_one_is_not_paid_for_long(server: Server, tmp_path: Path) -> None:
    server.make = lambda number: completion("I cannot do that.")
    with pytest.raises(UserError, match=f"{MOST_REFUSED} answers in a row .* it is not JSON"):
        ask(server, tmp_path / "x.jsonl", 50)
    assert len(server.bodies) == MOST_REFUSED


def test_a_key_never_goes_out_over_plain_http(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (server.url, "http://[::1]:1/v1", "https://api.example.com/v1"):
        Endpoint(address, "m")
    for host in ("api.example.com", "10.0.0.7", "localhost.example.com"):
        with pytest.raises(UserError, match=f"to {host} unencrypted.*--api_key_env=''") as error:
            Endpoint(f"http://{host}/v1", "m")
        assert KEY not in str(error.value)
        assert not Endpoint(f"http://{host}/v1", "m", "").key  # as the remedy says


def test_a_key_for_this_machine_goes_through_no_proxy(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        ask(server, tmp_path / "x.jsonl", 2)
        proxy.shutdown()
        thread.join()
    assert len(server.bodies) == 2
    assert not proxy.headers


def test_another_machine_is_asked_through_the_proxy_of_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    endpoint = Endpoint("http://api.example.com/v1", "m", "")
    endpoint.ask([{"role": "user", "content": "x"}], Meter(tmp_path / "x", "x"))
    assert [body["path"] for body in server.bodies] == ["http://api.example.com/v1/chat/completions"]
    monkeypatch.setenv("http_proxy", "nonsense://me:pw@there")
    Endpoint(server.url, "m")  # needs none
    with pytest.raises(UserError, match="a proxy that the environment names") as error:
        Endpoint("http://api.example.com/v1", "m", "")
    assert "pw" not in str(error.value)


def test_the_key_does_not_follow_a_redirect_and_nothing_else_of_the_environment_is_sent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "private")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer private\nX-Other: private")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/private")
    with Server() as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        server.script = [(status, {"Location": f"{other.url}/chat/completions"}, b"") for status in (301, 307, 308)]
        for status in (301, 307, 308):
            with pytest.raises(UserError, match=f"status {status}"):
                ask(server, tmp_path / "x.jsonl", 1)
        other.shutdown()
        thread.join()
    assert not other.headers
    assert len(server.headers) == 3
    for headers in server.headers:
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert "private" not in str(headers)


def test_no_part_of_a_key_and_no_terminal_command_is_in_an_error(server: Server, tmp_path: Path) -> None:
    """However the server's text is cut."""
    for padding in range(266, 290, 3):
        server.script = [(401, {}, b"x" * padding + KEY.encode() + b"\x1b]0;owned\x07")]
        with pytest.raises(UserError) as error:
            ask(server, tmp_path / "x.jsonl", 1)
        assert KEY[:4] not in str(error.value)
        assert str(error.value).isprintable()


def test_the_command_killed_in_the_middle_goes_on_and_keeps_the_count(server: Server, tmp_path: Path) -> None:
    real = server.make
    held = threading.Event()

    def make(number: int) -> bytes:
        if number >= 6:
            held.wait(60)
        return real(number)

    server.make = make
    out = tmp_path / "x.jsonl"
    command = [
        sys.executable, "-m", "scripts.identity", "--name=Ada", "--maker=Jo Doe", "--size=9", "--parallel=2",
        f"--out={out}", f"--base_url={server.url}", "--model=m", "--max_tokens=200000",
    ]  # fmt: skip
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(tmp_path / "base")}
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, env=environment, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while len(server.bodies) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert len(CustomJSON(out)) == 6
    state = json.loads(path_of(out).read_text())
    assert state["tokens"] > 6 * 350 + 2 * ANSWER_TOKENS  # the two under way may have been paid for
    server.make = real
    held.set()
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(CustomJSON(out)) == 9
    assert f"identity: 9 conversations in {out}; 0 answers were rejected" in done.stdout
    assert KEY not in done.stdout + done.stderr
    assert json.loads(path_of(out).read_text())["tokens"] == state["tokens"] + 3 * 350
