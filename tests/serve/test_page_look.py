"""Looking inside an answer: the same as `nanochat look` shows, bounded; and the page's views in a real browser."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat import checkpoint
from nanochat.commands import look
from nanochat.conversation import Conversation
from nanochat.inference import Engine, fit_conversation, load_engine
from nanochat.inference.looking import look_inside
from nanochat.serve import Access, ModelInfo, create_app
from nanochat.serve.page import look as page_look
from nanochat.tokenizer import render_conversation, render_partial

QUESTION = "Who are you?"
ASK = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(engine: Engine, info: ModelInfo) -> TestClient:
    return TestClient(create_app(engine, info, access=Access()), base_url="http://localhost")


def said(messages: list[dict[str, Any]], system: str = "") -> Conversation:
    first = [{"role": "system", "content": system}] if system else []
    return Conversation.from_dict({"messages": [*first, *messages]})


def at(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/page/look", json={"messages": ASK, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def by_command(tmp_path: Path, *args: str, **settings: Any) -> dict[str, Any]:
    file = tmp_path / "look.json"
    settings = {"model_tag": "d1", "json": (str(file),), "device": "cpu", "dtype": "float32", **settings}
    look.run(look.Config(text=args, **settings))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def without(told: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in names}


def test_it_is_what_the_command_shows(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tiny_run))
    engine, manifest = load_engine("sft", "d1", device="cpu", dtype="float32")
    info = ModelInfo("sft", "d1", manifest.step, 1)
    client = TestClient(create_app(engine, info, access=Access()), base_url="http://localhost")

    told = by_command(tmp_path, QUESTION, source="sft", chat=True, max_tokens=8)
    answer = told["answer"]
    ids = [token["id"] for token in told["tokens"][answer:]]
    seen = at(client, ids=ids)
    assert seen["offset"] == answer
    assert seen["special_from"] == len(engine.tokenizer.ranks)
    assert without(seen, "offset", "special_from") == without(told, "version", "command", "checkpoint", "answer")
    # one token of the answer, and the one to come
    for place, token in ((2, 2), ("next", len(ids))):
        chosen = place if place == "next" else answer + place
        told = by_command(tmp_path, QUESTION, source="sft", chat=True, max_tokens=8, token=chosen)
        assert at(client, ids=ids, token=token)["chosen"] == told["chosen"]

    # the same text in another checkpoint of this machine, a base model that continues it
    step = max(checkpoint.steps("base", "d1"))
    told = by_command(tmp_path, "Once upon a time", source="base", token=3)
    rest = [token["id"] for token in told["tokens"][2:]]
    text = told["tokens"][1]["text"]
    seen = at(client, model=f"base/d1/{step}", mode="text", text=text, ids=rest, token=1, messages=[])
    assert without(seen, "offset", "special_from") == without(told, "version", "command", "checkpoint", "answer")


def test_what_came_before_is_as_the_model_read_it(client: TestClient, engine: Engine) -> None:
    tool = [{"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}]
    messages = [*ASK, {"role": "assistant", "content": tool}, {"role": "user", "content": "Sure?"}]
    conversation = said(messages, "Be brief.")
    ids, _ = render_conversation(engine.tokenizer, conversation)
    ids.append(engine.tokenizer.special("<|assistant_start|>"))
    seen = at(client, messages=messages, system="Be brief.", ids=[65, 66])
    assert [token["id"] for token in seen["tokens"]] == [*ids, 65, 66] and seen["offset"] == len(ids)
    assert seen["chosen"]["token"] == len(ids) + 1
    # an answer that goes on
    seen = at(client, messages=messages[:2], ids=[65])
    assert seen["offset"] == len(render_partial(engine.tokenizer, said(messages[:2])))


def test_a_long_conversation_is_cut_as_for_its_answer(client: TestClient, engine: Engine) -> None:
    messages = [*ASK, {"role": "assistant", "content": "x" * 200}] * 4 + ASK
    seen = at(client, messages=messages, ids=[65] * 5, max_tokens=100)
    conversation = said(messages)
    kept = fit_conversation(engine.tokenizer, conversation, engine.window, 100)
    assert seen["offset"] == len(kept) < len(render_conversation(engine.tokenizer, conversation)[0])
    assert seen["offset"] <= engine.window - 100


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"ids": [65] * 512}, 422, "the model sees 512"),
        ({"ids": [10**6]}, 422, "Ids go from 0 to"),
        ({"ids": [-1]}, 422, "ids.0"),
        ({"ids": [65], "token": 2}, 422, "Choose a token from 1 to"),
        ({"token": -1}, 422, "token"),
        ({"messages": []}, 422, "there is no message"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 422, "expected user"),
        ({"mode": "poem"}, 422, "mode"),
        ({"model": "sft/d2/8"}, 404, "there is no checkpoint"),
        ({"model": "sft/../../d2/8"}, 404, "there is no checkpoint"),
        ({"max_tokens": 0}, 422, "max_tokens"),
    ],
)
def test_what_cannot_be_looked_at(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], status: int, said: str
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    told = client.post("/page/look", json={"messages": ASK, "ids": [65], **change})
    assert told.status_code == status and said in told.json()["detail"]


def test_other_models_are_for_those_who_are_let_in(
    engine: Engine, info: ModelInfo, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tiny_run))
    step = max(checkpoint.steps("sft", "d1"))
    for access, status in ((Access(loopback=False), 404), (Access(), 200)):
        client = TestClient(create_app(engine, info, access=access), base_url="http://localhost")
        asked = {"messages": ASK, "ids": [65]}
        assert client.post("/page/look", json={**asked, "model": f"sft/d1/{step}"}).status_code == status
        assert client.post("/page/look", json={**asked, "model": "sft/d2/7"}).status_code == 200  # the own one


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(anything, st.sampled_from(["model", "mode", "system", "messages", "text", "ids", "token", "max_tokens"]))
def test_no_body_breaks_it(client: TestClient, value: Any, name: str) -> None:
    text = json.dumps({"messages": ASK, "ids": [65, 66], name: value})
    told = client.post("/page/look", content=text, headers={"content-type": "application/json"})
    assert told.status_code in (200, 404, 422)


def test_one_at_a_time_and_not_for_those_who_left(
    engine: Engine, info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, looking, most, looked = threading.Event(), 0, 0, []

    def slow(*args: Any) -> Any:
        nonlocal looking, most
        looking += 1
        most = max(most, looking)
        may_go_on.wait(20)
        looked.append(args[3])
        looking -= 1
        return look_inside(*args)

    monkeypatch.setattr(page_look, "look_inside", slow)
    app = create_app(engine, info, access=Access())

    async def ask() -> list[Any]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:

            def one(token: int) -> asyncio.Task[Any]:
                body = {"messages": ASK, "ids": [65] * 20, "token": token}
                return asyncio.create_task(client.post("/page/look", json=body))

            asked = [one(token) for token in range(12)]
            while sum(task.done() for task in asked) < 3:  # those for whom there is no room
                await asyncio.sleep(0.01)
            assert (await client.get("/health")).status_code == 200  # the others are answered meanwhile
            may_go_on.set()
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    statuses = asyncio.run(ask())
    assert sorted(statuses) == [200] * 9 + [429] * 3
    assert most == 1 and len(looked) == 9
