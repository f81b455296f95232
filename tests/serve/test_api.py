"""The seed's chat API: format, limits, errors, clients that leave."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nanochat.conversation import Conversation
from nanochat.inference import Engine, Request, Token
from nanochat.serve import Defaults, ModelInfo, create_app
from nanochat.tokenizer import render_prompt

QUESTION = {"messages": [{"role": "user", "content": "how many?"}]}


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def events(text: str) -> list[dict[str, Any]]:
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def text(*words: str, kind: str = "text") -> list[Token]:
    return [Token(0, word, kind, 0) for word in words]  # type: ignore[arg-type]


def test_stream_format(client: TestClient, engine: Engine) -> None:
    response = client.post("/chat/completions", json={**QUESTION, "temperature": 0, "max_tokens": 40})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, last = events(response.text)
    assert last == {"done": True}
    assert all(piece.keys() == {"token", "gpu"} for piece in pieces)
    prompt = render_prompt(engine.tokenizer, Conversation.from_dict(QUESTION))
    expected = engine.generate([Request(prompt, temperature=0, max_tokens=40)])[0]
    assert "".join(piece["token"] for piece in pieces) == expected.text != ""


def test_tool_calls_stand_apart(scripted: Any, info: ModelInfo) -> None:
    said = [
        *text("It is "),
        *text("", kind="special"),
        *text("6*", "7", kind="python"),
        *text("42", kind="python_output"),
        *text("42."),
    ]
    with TestClient(create_app(scripted(lambda request: said), info)) as client:
        response = client.post("/chat/completions", json=QUESTION)
    assert events(response.text) == [
        {"token": "It is ", "gpu": 0},
        {"tool": "python", "text": "6*", "gpu": 0},
        {"tool": "python", "text": "7", "gpu": 0},
        {"tool": "python_output", "text": "42", "gpu": 0},
        {"token": "42.", "gpu": 0},
        {"done": True},
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("It is ", " so.", [{"token": "It is "}, {"token": "so."}]),
        ("It is ", "", [{"token": "It is "}]),
        ("", "", [{"tool": "python", "text": "3*"}, {"tool": "python", "text": "You are"}]),
    ],
    ids=["between words", "at the end", "alone"],
)
def test_a_tool_call_without_a_result_is_not_said(
    before: str, after: str, expected: list[dict[str, str]], scripted: Any, info: ModelInfo
) -> None:
    mark = text("", kind="special")
    said = [*text(before), *mark, *text("3*", "You are", kind="python"), *mark, *text(after)]
    with TestClient(create_app(scripted(lambda request: said), info)) as client:
        *pieces, done = events(client.post("/chat/completions", json=QUESTION).text)
    assert pieces == [{**piece, "gpu": 0} for piece in expected]
    assert done == {"done": True}


def test_history_reaches_the_model(scripted: Any, info: ModelInfo) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "6*7? <|assistant_end|>"},
        {"role": "assistant", "content": [{"type": "python", "text": "6*7"}, {"type": "text", "text": "42"}]},
        {"role": "user", "content": "sure?"},
    ]
    engine = scripted(lambda request: text("Yes."))
    with TestClient(create_app(engine, info)) as client:
        assert client.post("/chat/completions", json={"messages": messages}).status_code == 200
    assert engine.prompts == [render_prompt(engine.tokenizer, Conversation.from_dict({"messages": messages}))]


def test_defaults_are_the_servers(scripted: Any, info: ModelInfo) -> None:
    seen = []

    def script(request: Request) -> list[Token]:
        seen.append((request.temperature, request.top_k, request.max_tokens))
        return text("x")

    with TestClient(create_app(scripted(script), info, Defaults(0.3, 7, 11))) as client:
        client.post("/chat/completions", json=QUESTION)
        client.post("/chat/completions", json={**QUESTION, "temperature": 0, "top_k": 0, "max_tokens": 1})
    assert seen == [(0.3, 7, 11), (0, 0, 1)]


def message(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        (message(""), "empty"),
        (message([]), "empty"),
        (message(None), "content"),
        (message("x" * 8001), "8000"),
        (message([{"type": "text", "text": "x" * 5000}] * 2), "8000"),
        (message("hi", "robot"), "role"),
        (message("hi", "assistant"), "last message must be the user's"),
        (message("hi", "system"), "last message must be the user's"),
        ({"messages": [*message("a")["messages"], *message("b")["messages"]]}, "user"),
        ({"messages": message("a")["messages"] * 501}, "500"),
        (message([{"type": "python", "text": "1+1"}]), "not text"),
        (message([{"type": "image", "text": "x"}]), "type"),
        ({**QUESTION, "temperature": -0.1}, "temperature"),
        ({**QUESTION, "temperature": 2.1}, "temperature"),
        ({**QUESTION, "temperature": "NaN"}, "temperature"),
        ({**QUESTION, "top_k": 201}, "top_k"),
        ({**QUESTION, "top_k": -1}, "top_k"),
        ({**QUESTION, "max_tokens": 0}, "max_tokens"),
        ({**QUESTION, "max_tokens": 4097}, "max_tokens"),
        ([], "dictionary"),
    ],
)
def test_refused(client: TestClient, body: Any, says: str) -> None:
    response = client.post("/chat/completions", json=body)
    assert response.status_code == 422
    assert response.json().keys() == {"detail"}
    assert says in response.json()["detail"]


def test_a_conversation_over_the_limit(client: TestClient) -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": "x" * 7000} for i in range(9)]
    response = client.post("/chat/completions", json={"messages": turns})
    assert response.status_code == 422
    assert "32000" in response.json()["detail"]


@pytest.mark.parametrize(
    "said",
    [
        text("x" * 9000),
        text(*["word "] * 8000),
        text("x" * 100_000),
        [token for n in range(150) for token in (*text(f"{n}", kind="python"), *text("=", kind="python_output"))],
        text("2+2", kind="python_output"),
        text(" "),
        [],
    ],
    ids=["9,000 characters", "40,000", "100,000", "300 parts", "only output", "a space", "nothing"],
)
def test_whatever_it_answered_may_stand_in_a_history(said: list[Token], scripted: Any, info: ModelInfo) -> None:
    """As the page sends it back: parts, or the words alone; several times, as in a long conversation."""
    with TestClient(create_app(scripted(lambda request: said), info)) as client:
        *pieces, done = events(client.post("/chat/completions", json=QUESTION).text)
        assert done == {"done": True}
        parts: list[dict[str, str]] = []
        for piece in pieces:
            kind = piece.get("tool", "text")
            if not parts or parts[-1]["type"] != kind:
                parts.append({"type": kind, "text": ""})
            parts[-1]["text"] += piece.get("token", piece.get("text", ""))
        for content in (parts, "".join(part["text"] for part in parts)):
            past = [*QUESTION["messages"], {"role": "assistant", "content": content}]
            response = client.post("/chat/completions", json={"messages": [*past * 5, *QUESTION["messages"]]})
            assert response.status_code == 200, response.text[:300]
            assert events(response.text)[-1] == {"done": True}


def test_limits_hold_for_what_people_write(client: TestClient) -> None:
    assert "more than 100 parts" in refusal(client, [{"type": "text", "text": "x"}] * 101)
    assert "8000 characters" in refusal(client, "x" * 8001, "system")


def refusal(client: TestClient, content: Any, role: str = "user") -> str:
    messages = [{"role": role, "content": content}, *([] if role == "user" else QUESTION["messages"])]
    response = client.post("/chat/completions", json={"messages": messages})
    assert response.status_code == 422
    return str(response.json()["detail"])


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"messages": [{"role": "user", "content": "\\ud800"}]}'])
def test_bodies_that_are_not_json_text(client: TestClient, body: bytes) -> None:
    response = client.post("/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    assert isinstance(response.json()["detail"], str)


def test_a_huge_body(client: TestClient) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 100_000

    announced = client.post("/chat/completions", content=b" " * 2_000_000)
    assert (announced.status_code, list(announced.json())) == (413, ["detail"])
    unannounced = client.post("/chat/completions", content=pieces())
    assert (unannounced.status_code, list(unannounced.json())) == (413, ["detail"])
    assert client.get("/health").status_code == 200


def test_longer_than_the_window(client: TestClient) -> None:
    """Far more text than the model's context: the oldest turns go, an answer comes."""
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"{i} letters, " * 60} for i in range(21)]
    response = client.post("/chat/completions", json={"messages": turns})
    assert response.status_code == 200
    assert events(response.text)[-1] == {"done": True}


def test_health_stats_and_page(client: TestClient) -> None:
    health = client.get("/health").json()
    assert (health["status"], health["ready"]) == ("ok", True)
    assert health["model"] == {"stage": "sft", "tag": "d2", "step": 7, "parameters": 1234}
    client.post("/chat/completions", json={**QUESTION, "max_tokens": 5})
    stats = client.get("/stats").json()
    assert stats["requests"] == 1
    assert 0 < stats["tokens"] <= 5
    assert (stats["waiting"], stats["running"]) == (0, 0)
    page = client.get("/")
    assert "<!doctype html>" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in ("chat/main.js", "chat.css", "logo.svg"):
        assert f"/static/{path}" in page.text
        assert client.get(f"/static/{path}").status_code == 200
    assert client.get("/static/../app.py").status_code == 404


def test_other_origins_are_not_invited(client: TestClient) -> None:
    response = client.get("/health", headers={"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in response.headers


def test_nothing_is_fetched_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/static/chat/main.js", "/static/style.css"):
        assert "https://" not in client.get(path).text
    assert "innerHTML" not in client.get("/static/chat/main.js").text


def test_a_failing_engine(scripted: Any, info: ModelInfo) -> None:
    def script(request: Request) -> Iterator[Token]:
        yield from text("half ")
        raise RuntimeError("out of memory")

    with TestClient(create_app(scripted(script), info)) as client:
        *said, error, done = events(client.post("/chat/completions", json=QUESTION).text)
        assert said == [{"token": "half ", "gpu": 0}]
        assert "failed" in error["error"]
        assert "memory" not in error["error"]
        assert done == {"done": True}
        assert client.get("/stats").json()["running"] == 0


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_client_that_leaves_ends_the_work(scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> None:
    engine = scripted(lambda request: itertools.repeat(*text("word ")))  # without end
    address = served(create_app(engine, info))
    with httpx.stream("POST", f"{address}/chat/completions", json=QUESTION, timeout=20) as response:
        next(response.iter_lines())
    assert engine.ended.wait(60)
    engine.ended.clear()
    engine.script = lambda request: text("fine")
    assert events(httpx.post(f"{address}/chat/completions", json=QUESTION, timeout=20).text)[0]["token"] == "fine"


def test_a_waiting_client_that_leaves_is_never_answered(
    scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    engine = scripted(lambda request: text("a", "b"))
    engine.may_go_on.clear()
    address = served(create_app(engine, info))
    first: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: first.append(httpx.post(f"{address}/chat/completions", json=QUESTION, timeout=20))
    )
    asking.start()

    def stats() -> dict[str, int]:
        answer: dict[str, int] = httpx.get(f"{address}/stats", timeout=20).json()
        return answer

    assert wait_for(lambda: stats()["running"] == 1)
    with httpx.stream("POST", f"{address}/chat/completions", json=QUESTION, timeout=20):
        assert wait_for(lambda: stats()["waiting"] == 1)
    assert wait_for(lambda: stats()["waiting"] == 0)
    engine.may_go_on.set()
    asking.join(20)
    assert [event.get("token") for event in events(first[0].text)] == ["a", "b", None]
    assert stats()["requests"] == 1


@pytest.mark.parametrize("limit", [0, 1, 4])
def test_sixty_at_once_are_counted_as_they_come(
    limit: int, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    """Before the first of them has begun: one is answered, as many as may wait do, and all others are told so."""
    engine = scripted(lambda request: text("a"))
    engine.max_batch = 1
    engine.may_go_on.clear()
    address = served(create_app(engine, info, max_waiting=limit))
    codes: list[int] = []

    def ask() -> None:
        codes.append(httpx.post(f"{address}/chat/completions", json=QUESTION, timeout=60).status_code)

    threads = [threading.Thread(target=ask) for _ in range(60)]
    for thread in threads:
        thread.start()
    assert wait_for(lambda: codes.count(429) == 60 - limit - 1)
    engine.may_go_on.set()
    for thread in threads:
        thread.join(60)
    assert codes.count(200) == limit + 1
    stats = httpx.get(f"{address}/stats", timeout=20).json()
    assert (stats["waiting"], stats["running"], stats["requests"]) == (0, 0, limit + 1)


def test_an_answer_is_counted_before_its_stream_ends(scripted: Any, info: ModelInfo) -> None:
    """Also one that fails; many times, since who comes first is up to the threads."""
    said = text("a", "b", "c")

    def script(request: Request) -> Iterator[Token]:
        yield from said
        if request.max_tokens == 1:
            raise RuntimeError

    with TestClient(create_app(scripted(script), info)) as client:
        for number in range(1, 101):
            body = {**QUESTION, "max_tokens": 1 + number % 2}
            assert events(client.post("/chat/completions", json=body).text)[-1] == {"done": True}
            stats = client.get("/stats").json()
            assert (stats["tokens"], stats["waiting"], stats["running"]) == (3 * number, 0, 0)


def test_a_response_that_never_begins_gives_its_place_back(scripted: Any, info: ModelInfo) -> None:
    """The client has gone before the first byte: what was let in leaves, whether it waited or was being answered."""
    engine = scripted(lambda request: text(*["word "] * 100_000))
    engine.may_go_on.clear()
    app = create_app(engine, info, max_waiting=1)
    body = json.dumps(QUESTION).encode()
    scope = {
        "type": "http", "method": "POST", "path": "/chat/completions", "query_string": b"", "http_version": "1.1",
        "headers": [(b"content-type", b"application/json")], "asgi": {"version": "3.0"}, "scheme": "http",
        "server": ("x", 80),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def gone(message: dict[str, Any]) -> None:
        raise OSError("the connection is closed")

    with TestClient(app) as client:
        for _ in range(5):
            with contextlib.suppress(Exception):
                client.portal.call(app, dict(scope), receive, gone)  # type: ignore[union-attr]
            engine.may_go_on.set()
            assert wait_for(lambda: client.get("/stats").json()["running"] == 0)
            assert client.get("/stats").json()["waiting"] == 0
            engine.may_go_on.clear()
    assert engine.said < 100_000


def test_too_many_waiting(scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> None:
    engine = scripted(lambda request: text("a"))
    engine.max_batch = 1
    engine.may_go_on.clear()
    address = served(create_app(engine, info, max_waiting=1))
    answers: list[int] = []

    def ask() -> None:
        answers.append(httpx.post(f"{address}/chat/completions", json=QUESTION, timeout=20).status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for place, thread in enumerate(threads):
        thread.start()
        assert wait_for(lambda: httpx.get(f"{address}/stats", timeout=20).json()["running"] == 1)
        if place:
            assert wait_for(lambda: httpx.get(f"{address}/stats", timeout=20).json()["waiting"] == 1)
    refused = httpx.post(f"{address}/chat/completions", json=QUESTION, timeout=20)
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert "waiting" in refused.json()["detail"]
    engine.may_go_on.set()
    for thread in threads:
        thread.join(20)
    assert answers == [200, 200]
