"""POST /v1/completions, and the other routes and errors of the OpenAI API."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.inference import Engine, Request, Token
from nanochat.serve import ModelInfo, create_app
from nanochat.serve.openai_route import brackets
from nanochat.serve.shown import shown
from tests.inference.fakes import hashed, parrot
from tests.serve.test_openai_chat import QUESTION, WITHOUT_RESULT, chunks, refusal, without_result

PATH = "/v1/completions"
TEXT = "how many letters? Grüße 🙂"


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def ask(client: TestClient, prompt: Any = TEXT, **settings: Any) -> Any:
    response = client.post(PATH, json={"prompt": prompt, "temperature": 0, **settings})
    assert response.status_code == 200, response.text
    return response.json()


def test_texts_and_ids(client: TestClient, engine: Engine) -> None:
    ids = engine.tokenizer.encode(TEXT)
    answer = ask(client, max_tokens=12)
    [expected] = engine.generate([Request([engine.tokenizer.bos, *ids], 12, 0)])
    assert answer["object"] == "text_completion" and answer["model"] == "sft-d2"
    text = shown(expected.parts)
    assert answer["choices"] == [{"index": 0, "text": text, "logprobs": None, "finish_reason": expected.finish}]
    tokens = len(expected.ids)
    used = {"prompt_tokens": len(ids) + 1, "completion_tokens": tokens, "total_tokens": len(ids) + 1 + tokens}
    assert answer["usage"] == used
    assert ask(client, [float(engine.tokenizer.bos), *ids], max_tokens=12)["choices"] == answer["choices"]
    [as_it_is] = engine.generate([Request(ids, 12, 0)])
    assert ask(client, [engine.tokenizer.bos, *ids], max_tokens=12)["choices"] == answer["choices"]
    assert ask(client, ids, max_tokens=12)["choices"][0]["text"] == shown(as_it_is.parts) != text


@WITHOUT_RESULT
def test_a_tool_call_without_a_result_is_not_said(
    engine: Engine, info: ModelInfo, before: str, after: str, text: str
) -> None:
    said = without_result(engine, before, after)
    talking = parrot(engine.tokenizer, said, 1 + len(engine.tokenizer.encode(TEXT)))
    with TestClient(create_app(talking, info)) as client:
        [choice] = ask(client, max_tokens=60, logprobs=1)["choices"]
        assert choice["text"] == text and text.startswith("".join(choice["logprobs"]["tokens"]))
        assert len(choice["logprobs"]["tokens"]) == len(said) - 1
        pieces = [
            chunk["choices"][0]["text"]
            for chunk in chunks(client, path=PATH, prompt=TEXT, temperature=0, max_tokens=60)
        ]
        assert "".join(pieces) == text


def test_16_tokens_where_none_are_named(client: TestClient) -> None:
    assert ask(client)["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("echo", [False, True])
def test_several_prompts_in_order(client: TestClient, engine: Engine, echo: bool) -> None:
    texts = ["how", "", "<|bos|> many"]
    prompts = [[engine.tokenizer.bos, *engine.tokenizer.encode(text)] for text in texts]
    assert all(prompt.count(engine.tokenizer.bos) == 1 for prompt in prompts)
    asked = {"n": 2, "seed": 4, "temperature": 1, "max_tokens": 9, "echo": echo}
    expected = engine.generate([Request(prompt, 9, 1, seed=4, n=2) for prompt in prompts])
    before = [text if echo else "" for text in texts for _ in range(2)]
    said = [text + shown(completion.parts) for text, completion in zip(before, expected, strict=True)]
    for prompt in (texts, prompts):
        answer = ask(client, prompt, **asked)
        choices = answer["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2, 3, 4, 5]
        if prompt is texts or not echo:  # of ids, all are shown
            assert [choice["text"] for choice in choices] == said
        else:
            assert [choice["text"] for choice in choices] == ["<|bos|>" + text for text in said]
        assert answer["usage"]["prompt_tokens"] == sum(map(len, prompts))


@pytest.mark.parametrize("logprobs", [None, 1])
def test_several_prompts_in_a_stream(client: TestClient, logprobs: int | None) -> None:
    asked = {"prompt": ["how", "many"], "n": 2, "seed": 4, "max_tokens": 5, "echo": True, "logprobs": logprobs}
    whole = ask(client, **asked, top_k=0)["choices"]
    said = dict.fromkeys(range(4), "")
    for event in chunks(client, path=PATH, **asked, top_k=0, temperature=0):
        for choice in event["choices"]:
            said[choice["index"]] += choice["text"]
    assert said == {choice["index"]: choice["text"] for choice in whole}


def test_log_probabilities_of_a_prompt(client: TestClient, engine: Engine) -> None:
    """As lm-eval asks for them."""
    tokenizer = engine.tokenizer
    ids = tokenizer.encode(TEXT)
    request = Request([tokenizer.bos, *ids], 1, 0, logprobs=1, prompt_logprobs=1)
    [expected] = engine.generate([request])
    assert expected.prompt_logprobs and expected.prompt_top and expected.logprobs
    for prompt, hidden in ((TEXT, 1), ([tokenizer.bos, *ids], 0)):
        [choice] = ask(client, prompt, max_tokens=1, logprobs=1, echo=True)["choices"]
        told = choice["logprobs"]
        assert told["token_logprobs"] == [*expected.prompt_logprobs[hidden:], *expected.logprobs]
        assert (told["token_logprobs"][0] is None) == (told["top_logprobs"][0] is None) == (hidden == 0)
        assert "".join(told["tokens"]) == choice["text"]
        offsets = zip(told["tokens"], told["text_offset"], strict=True)
        assert all(choice["text"][offset:].startswith(token) for token, offset in offsets)
        assert len(told["tokens"]) == len(told["top_logprobs"]) == len(ids) + 2 - hidden
        pairs = zip(told["token_logprobs"][1:], told["top_logprobs"][1:], strict=True)
        assert all(own in top.values() and 1 <= len(top) <= 2 for own, top in pairs)
        likeliest = [top[0][1] for top in expected.prompt_top[1:]]
        assert [max(top.values()) for top in told["top_logprobs"][1 - hidden : -1]] == likeliest


def test_the_answers_are_stopped_but_the_prompts_are_all_there(engine: Engine, info: ModelInfo) -> None:
    """A program that asked for one token looks for the prompt's before the last one, which here is none."""
    fake = parrot(engine.tokenizer, [engine.tokenizer.bos])
    with TestClient(create_app(fake, info)) as client:
        [choice] = ask(client, "how", max_tokens=1, logprobs=1, echo=True)["choices"]
        told = choice["logprobs"]
        assert choice["text"] == "how" == "".join(told["tokens"]) and choice["finish_reason"] == "stop"
        assert len(told["tokens"]) == len(engine.tokenizer.encode("how")) + 1
        assert told["tokens"][-1] == "" and told["text_offset"][-1] == 3
        assert told["token_logprobs"][-1] == told["top_logprobs"][-1]["<|bos|>"] == pytest.approx(0)
        [choice] = ask(client, "how", max_tokens=1, logprobs=1)["choices"]
        assert choice["logprobs"]["tokens"] == []


@pytest.mark.parametrize("logprobs", [None, 0, 3])
@pytest.mark.parametrize("prompt", [TEXT, [5, 6, 7]], ids=["text", "ids"])
def test_nothing_but_the_prompt(client: TestClient, engine: Engine, prompt: Any, logprobs: int | None) -> None:
    answer = ask(client, prompt, max_tokens=0, echo=True, logprobs=logprobs)
    [choice] = answer["choices"]
    assert choice["text"] == (TEXT if isinstance(prompt, str) else engine.tokenizer.decode(prompt))
    assert choice["finish_reason"] == "length" and answer["usage"]["completion_tokens"] == 0
    if logprobs is None:
        assert choice["logprobs"] is None
    else:
        ids = engine.tokenizer.encode(TEXT) if isinstance(prompt, str) else prompt
        assert len(choice["logprobs"]["tokens"]) == len(ids)
        own = set(map(len, choice["logprobs"]["top_logprobs"][1:]))
        assert own <= {max(1, logprobs), logprobs + 1}


@pytest.fixture(scope="module")
def chatty(engine: Engine, info_of_module: ModelInfo) -> Iterator[TestClient]:
    """Over an engine that calls the calculator often, and cuts characters into pieces."""
    fake, runner = hashed(engine.tokenizer, seq_len=96)
    runner.likely = [*runner.likely, *engine.tokenizer.encode("+🙂")]
    with TestClient(create_app(fake, info_of_module)) as client:
        yield client


@pytest.fixture(scope="module")
def info_of_module() -> ModelInfo:
    return ModelInfo("sft", "d2", 7, 1234)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(st.text(max_size=8), st.lists(st.integers(0, 298), min_size=1, max_size=8)),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from([None, 0, 2]),
    st.sampled_from([[], ["3"], ["7", "\ufffd"], [" = 3"]]),
    st.integers(1, 3),
)
def test_streams_and_whole_answers_agree_and_tokens_are_the_text(
    chatty: TestClient, prompt: Any, seed: int, echo: bool, logprobs: int | None, stop: list[str], n: int
) -> None:
    asked = {"prompt": prompt, "seed": seed, "n": n, "temperature": 1, "max_tokens": 30, "stop": stop}
    asked |= {"echo": echo, "logprobs": logprobs}
    whole = chatty.post(PATH, json=asked).json()
    events = chunks(chatty, path=PATH, **asked, stream_options={"include_usage": True})
    assert events.pop()["usage"] == whole["usage"]
    for choice in whole["choices"]:
        own = [c for event in events for c in event["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in own) == choice["text"]
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == [choice["finish_reason"]]
        if logprobs is not None:
            told = choice["logprobs"]
            together: dict[str, list[Any]] = {key: [] for key in told}
            for c in own:
                for key in together:
                    together[key] += (c["logprobs"] or {}).get(key, [])
            assert together == told
            text = "".join(told["tokens"])
            assert choice["text"].startswith(text)
            rest = choice["text"][len(text) :]
            # A call that was cut off is closed. An answer of nothing but calls without results is said at its end.
            assert rest in ("", "] ") or (rest.startswith("[") and rest.endswith("] "))
            offsets = zip(told["tokens"], told["text_offset"], strict=True)
            assert all(choice["text"][offset:].startswith(token) for token, offset in offsets)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {"prompt": None}),
    ("prompt", {"prompt": []}),
    ("prompt", {"prompt": [[]]}),
    ("prompt", {"prompt": [1, "a"]}),
    ("prompt", {"prompt": ["a", 1]}),
    ("prompt", {"prompt": [["a"]]}),
    ("prompt", {"prompt": [True]}),
    ("prompt", {"prompt": [1.5]}),
    ("prompt", {"prompt": [1, True]}),
    ("prompt", {"prompt": [-1]}),
    ("prompt", {"prompt": [[1], [10**6]]}),
    ("prompt", {"prompt": {"text": "a"}}),
    ("prompt", {"prompt": "half \ud83d"}),
    ("prompt", {"prompt": ["a"] * 257}),
    ("prompt", {"prompt": [1] * 512}),
    ("prompt", {"prompt": "x" * 10**6}),
    ("n", {"prompt": ["a"] * 100, "n": 3}),
    ("logprobs", {"prompt": [[1] * 500] * 32, "logprobs": 10, "echo": True, "max_tokens": 0, "n": 2}),
    ("logprobs", {"prompt": [[1] * 500] * 128, "logprobs": 10, "echo": True, "max_tokens": 0}),
    ("suffix", {"suffix": "end"}),
    ("best_of", {"best_of": 2}),
    ("best_of", {"best_of": 0}),
    ("echo", {"echo": 1}),
    ("logprobs", {"logprobs": True}),
    ("logprobs", {"logprobs": 21}),
    ("logprobs", {"logprobs": -1}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1}),
    ("logit_bias", {"logit_bias": {"5": 1}}),
]


@pytest.mark.parametrize(("param", "change"), REFUSED, ids=[f"{i}-{param}" for i, (param, _) in enumerate(REFUSED)])
def test_a_refusal_names_the_parameter(client: TestClient, param: str, change: dict[str, Any]) -> None:
    body = json.dumps({"prompt": "a", **change})
    response = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_a_prompt_that_does_not_fit(client: TestClient, engine: Engine) -> None:
    out = refusal(client, PATH, {"prompt": [engine.tokenizer.vocab_size]})
    assert out["param"] == "prompt" and out["code"] is None
    for prompt in ([1] * engine.window, "é" * 600, "é" * 10**6, ["a", "é" * 600]):
        error = refusal(client, PATH, {"prompt": prompt})
        assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")
    assert ask(client, [1] * (engine.window - 1))["usage"]["completion_tokens"] <= 1


def test_what_changes_nothing_is_taken(client: TestClient) -> None:
    plain = ask(client)["choices"]
    harmless = {"suffix": "", "best_of": 1, "logit_bias": {}, "user": "me", "n": None, "stop": None, "unknown": [1]}
    assert ask(client, **harmless, logprobs=None, echo=None, stream=None, model="x")["choices"] == plain


def test_models(client: TestClient, engine: Engine) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    [model] = listed["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("sft-d2", "model", engine.window)
    assert client.get("/v1/models/sft-d2").json() == model
    response = client.get("/v1/models/gpt-4o")
    assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/embeddings", "/v1/models/", "/v1/nothing/at/all"])
def test_what_is_not_there(client: TestClient, path: str) -> None:
    response = client.post(path, json={}) if path == "/v1/embeddings" else client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_another_method(client: TestClient) -> None:
    response = client.get(PATH)
    assert response.status_code == 405 and response.headers["allow"] == "POST"
    assert response.json()["error"]["message"]


BAD_JSON = {
    "half": b'{"prompt": "a"',
    "empty": b"",
    "no object": b"[1]",
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "infinite": b'{"prompt": "a", "temperature": 1e999}',
    "digits": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
    "nested": b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "twice": b'{"prompt": "a", "prompt": "b"}',
    "no UTF-8": b'{"prompt": "\xff"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "zero": b'{"prompt": "a"}\x00',
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
@pytest.mark.parametrize("path", [PATH, "/v1/chat/completions"])
def test_what_is_no_json(client: TestClient, path: str, body: bytes) -> None:
    response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert all(word not in error["message"] for word in ("codec", "dictionary", "instance", "ChatRequest"))


def test_a_body_may_begin_with_a_mark(client: TestClient) -> None:
    body = ("\ufeff" + json.dumps({"prompt": TEXT, "temperature": 0})).encode()
    response = client.post(PATH, content=body, headers={"Content-Type": "application/json; charset=utf-8"})
    assert response.json()["choices"] == ask(client)["choices"]


def test_a_compressed_body(client: TestClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = client.post(PATH, content=gzip.compress(b'{"prompt": "a"}'), headers=headers)
    assert response.status_code == 415 and "gzip" in response.json()["error"]["message"]


def test_too_many_lists_and_objects(client: TestClient) -> None:
    for body in ({"prompt": [[]] * 30_000}, {"prompt": "a", "x": [{}] * 30_000}):
        assert "lists and objects" in refusal(client, PATH, body)["message"]
    assert ask(client, user='[{"' * 30_000 + "\\" + "[" * 9)  # in a string


TRICKY = st.text('"\\\\[{é', max_size=6)


@given(st.recursive(TRICKY, lambda some: st.one_of(st.lists(some), st.dictionaries(TRICKY, some))))
def test_lists_and_objects_are_counted(value: Any) -> None:
    def count(value: Any) -> int:
        inside = value if isinstance(value, list) else value.values() if isinstance(value, dict) else None
        return 0 if inside is None else 1 + sum(map(count, inside))

    assert brackets(json.dumps(value).encode()) == count(value)


def test_many_quotes_in_a_string_that_is_never_closed(client: TestClient) -> None:
    """Looked through once; as often as there are quotes, that would take hours, in which nobody gets on."""
    body = b"[" * 20_001 + b'"' + b'\\"' * 1_000_000
    response = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400


def test_another_type_of_body(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = client.post(PATH, content=b'{"prompt": "a"}', headers={"Content-Type": kind})
        assert response.status_code == 400 and "application/json" in response.json()["error"]["message"]


def test_a_body_that_is_too_large(client: TestClient) -> None:
    response = client.post(PATH, json={"prompt": "a" * (4 << 20)})
    assert response.status_code == 413 and response.json()["error"]["message"]
    response = client.post("/chat/completions", json={"messages": [{"role": "user", "content": "a" * (1 << 20)}]})
    assert response.status_code == 413 and response.json().keys() == {"detail"}


def test_larger_than_the_seeds(scripted: Any, info: ModelInfo) -> None:
    """Text that the seed's API refuses for its length; parts of it are left out here."""
    engine = scripted(lambda request: [Token(0, "x", "text", 0)])
    exchange = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * 9000}]
    with TestClient(create_app(engine, info)) as client:
        body = {"messages": [*exchange * 300, *QUESTION]}
        assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_the_description_of_the_api(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    for path in (PATH, "/v1/chat/completions"):
        answers = described["paths"][path]["post"]["responses"]
        assert {"200", "400", "4XX", "429", "503"} <= answers.keys() and "422" not in answers
        assert answers["200"]["content"].keys() == {"application/json", "text/event-stream"}
    schemas = described["components"]["schemas"]
    assert schemas["ChatRequest"]["properties"]["n"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 16}
    assert schemas["ChatRequest"]["required"] == ["messages"]
    assert schemas["CompletionRequest"]["required"] == ["prompt"]
