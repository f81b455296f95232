"""What nobody of good will sends: it is refused, and in refusing it the server does not stand still."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nanochat.serve import Access, create_app, openai_route
from nanochat.serve.info import ModelInfo
from nanochat.serve.page import look
from nanochat.serve.page.bodies import AnswerBody
from nanochat.serve.page.look import LookBody
from nanochat.serve.schema import ChatBody

ID, USER = "a" * 32, {"role": "user", "content": "hi"}


def of_parts(*parts: Any) -> dict[str, Any]:
    return {"id": ID, "messages": [USER, {"role": "assistant", "content": [*parts]}, USER]}


FULL = "a part has a type and a text, and no other keys"
ODD: dict[str, tuple[dict[str, Any], str]] = {
    "numbers": (of_parts(*[1] * 300_000), "messages.1.content.0: it should be an object"),
    "objects": (of_parts(*[{}] * 200_000), "messages.1.content.0.type: Field required"),
    "keys": (of_parts({f"k{n}": 1 for n in range(50_000)}), f"messages.1.content.0: {FULL}"),
    "one key": (of_parts({"type": "text", "text": "a", "id": 1}), "messages.1.content.0.id: Extra inputs are not "),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("body_type", [ChatBody, AnswerBody, LookBody])
def test_few_faults_are_told_however_many_there_are(body_type: Any, name: str) -> None:
    """Each of half a million took a microsecond to find and ten to tell, in which nobody else was answered."""
    body, expected = ODD[name]
    with pytest.raises(ValidationError) as caught:
        body_type.model_validate(body)
    assert caught.value.error_count() < 5
    assert expected in openai_route.explain(list(caught.value.errors()))


@pytest.mark.parametrize(("body_type", "name"), [(AnswerBody, "begun"), (LookBody, "ids")])
def test_the_first_bad_id_is_told(body_type: Any, name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        body_type.model_validate({"id": ID, "messages": [USER], name: ["x"] * 100_000})
    assert caught.value.error_count() == 1


@pytest.fixture
def client(engine: Any, info: ModelInfo) -> Iterator[TestClient]:
    app: FastAPI = create_app(engine, info, access=Access())
    with TestClient(app, base_url="http://localhost") as client:
        yield client


BODIES = {
    "/page/answers": {"id": ID, "messages": [USER]},
    "/page/look": {"messages": [USER], "ids": [65]},
    "/page/feedback": {"id": ID, "messages": [USER, {"role": "assistant", "content": "x"}], "rating": "good"},
    "/page/count": {"text": "hi"},
}


@pytest.mark.parametrize("path", BODIES)
def test_strict_json(path: str, client: TestClient, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    good = json.dumps(BODIES[path])
    many = openai_route.MAX_BRACKETS * "[]," + "1"
    bad = {
        "NaN": good[:-1] + ', "later": NaN}',
        "twice": good[:-1] + ', "later": {"a": 1, "a": 2}}',
        "nested too deeply": "[" * 15_000,
        "digits": good[:-1] + ', "later": ' + "9" * 6000 + "}",
        "lists and objects": good[:-1] + f', "later": [{many}]}}',
        "not UTF-8": good.encode("utf-16"),
        "no valid JSON": "",
        "object": "[]",
    }
    headers = {"content-type": "application/json"}
    for problem, text in bad.items():
        told = client.post(path, content=text, headers=headers)
        assert told.status_code == 422, problem
        if text:  # else FastAPI's own words
            assert problem in told.json()["detail"]
    assert client.post(path, content=good, headers={**headers, "content-encoding": "gzip"}).status_code == 415
    assert client.post(path, content=good[:-1] + ', "later": [1]}', headers=headers).status_code == 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.integers(0, 6))
def test_json_in_pieces_is_the_same_json(value: Any, depth: int) -> None:
    assert look._json(value, depth) == json.dumps(value)
