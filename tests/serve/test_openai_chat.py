"""POST /v1/chat/completions: what the engine says in OpenAI's form, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nanochat.conversation import Conversation, Message, Part
from nanochat.inference import Completion, Engine, Request, Token
from nanochat.serve import Defaults, ModelInfo, create_app
from nanochat.serve.shown import shown
from nanochat.tokenizer import render_conversation, render_partial, render_prompt
from tests.inference.fakes import hashed, parrot

PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "how many?"}]
CALL = "That is [6*7 = 42] 42."
CALLED = (Part("text", "That is "), Part("python", "6*7"), Part("python_output", "42"), Part("text", "42."))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def ask(client: TestClient, messages: Any = QUESTION, **settings: Any) -> Any:
    response = client.post(PATH, json={"messages": messages, **settings})
    assert response.status_code == 200, response.text
    return response.json()


def chunks(client: TestClient, messages: Any = QUESTION, path: str = PATH, **settings: Any) -> list[Any]:
    body = {"messages": messages, **settings} if path == PATH else settings
    response = client.post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


def generated(engine: Engine, messages: Any = QUESTION, **settings: Any) -> list[Completion]:
    prompt = render_prompt(engine.tokenizer, Conversation.from_dict({"messages": messages}))
    return engine.generate([Request(prompt, **settings)])


def refusal(client: TestClient, path: str, body: Any, status: int = 400) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    return response.json()["error"]


def test_a_whole_answer(client: TestClient, engine: Engine) -> None:
    answer = ask(client, temperature=0, max_tokens=20, model="gpt-4o")
    [expected] = generated(engine, temperature=0, max_tokens=20)
    assert answer["object"] == "chat.completion" and answer["id"] and answer["created"]
    assert answer["model"] == "sft-d2"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": shown(expected.parts)},
            "logprobs": None,
            "finish_reason": expected.finish,
        }
    ]
    prompt = len(render_prompt(engine.tokenizer, Conversation.from_dict({"messages": QUESTION})))
    tokens = len(expected.ids)
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}


SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.5, "seed": 3, "n": 3, "top_k": 0},
    {"temperature": 1, "seed": -(2**62), "n": 2, "top_p": 0.5, "min_p": 0.01, "repetition_penalty": 1.3},
    {"temperature": 0.7, "seed": 1, "top_k": 5, "stop": ["a", "er"]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["greedy", "three", "all", "stops"])
@pytest.mark.parametrize("logprobs", [{}, {"logprobs": True, "top_logprobs": 3}], ids=["plain", "logprobs"])
def test_streams_say_what_whole_answers_say(
    client: TestClient, engine: Engine, settings: dict[str, Any], logprobs: dict[str, Any]
) -> None:
    asked = {**settings, **logprobs, "max_tokens": 30}
    whole = ask(client, **asked)
    expected = generated(engine, **{"top_k": 50, **settings}, max_tokens=30)
    assert [choice["message"]["content"] for choice in whole["choices"]] == [shown(c.parts) for c in expected]
    first, *rest = chunks(client, **asked, stream_options={"include_usage": True})
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["object"] for chunk in rest} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in rest}) == 1
    assert rest[-1]["choices"] == [] and rest.pop()["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in rest)
    for choice in whole["choices"]:
        own = [c for chunk in rest for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["delta"].get("content", "") for c in own) == choice["message"]["content"]
        assert [c["finish_reason"] for c in own if c["finish_reason"]] == [choice["finish_reason"]]
        assert own[-1]["finish_reason"]
        told = [entry for c in own if c["logprobs"] for entry in c["logprobs"]["content"]]
        assert told == (choice["logprobs"]["content"] if logprobs else [])


def test_without_stream_options_no_usage(client: TestClient) -> None:
    assert all("usage" not in chunk for chunk in chunks(client, max_tokens=3))


def test_log_probabilities_of_the_bytes_that_are_said(client: TestClient, engine: Engine) -> None:
    """Characters are split between tokens here, so that text alone would not do."""
    settings = {"temperature": 0, "max_tokens": 40}
    [choice] = ask(client, logprobs=True, top_logprobs=2, **settings)["choices"]
    [expected] = generated(engine, logprobs=2, **settings)
    content = choice["logprobs"]["content"]
    said = [(id, logprob) for id, logprob in zip(expected.ids, expected.logprobs or [], strict=True)]
    assert [entry["logprob"] for entry in content] == [logprob for _, logprob in said if logprob is not None]
    assert [bytes(entry["bytes"]) for entry in content] == [engine.tokenizer.decode_bytes([id]) for id, _ in said]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode(
        errors="replace"
    ) == engine.tokenizer.decode(expected.ids)
    assert all(entry["top_logprobs"][0]["logprob"] == entry["logprob"] for entry in content)  # greedy
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    assert all("�" in entry["token"] or entry["token"].encode() == bytes(entry["bytes"]) for entry in content)
    [choice] = ask(client, logprobs=True, **settings)["choices"]
    assert all(entry["top_logprobs"] == [] for entry in choice["logprobs"]["content"])


def test_a_stop_string_is_neither_said_nor_told(engine: Engine) -> None:
    tokenizer = engine.tokenizer
    fake = parrot(tokenizer, [tokenizer.ranks[bytes([c])] for c in b"abcd"], prompt=9)
    with TestClient(create_app(fake, ModelInfo("sft", "d2", 7, 1))) as client:
        for asked in ({"stop": "bc"}, {"stop": ["x", "bc"]}):
            [choice] = ask(client, temperature=0, logprobs=True, **asked)["choices"]
            assert choice["message"]["content"] == "a" and choice["finish_reason"] == "stop"
            assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["a"]


def test_tool_calls_are_content(engine: Engine, info: ModelInfo) -> None:
    fake, _ = hashed(engine.tokenizer, seq_len=200)
    fake.runner.likely += engine.tokenizer.encode("+")  # type: ignore[attr-defined]
    with TestClient(create_app(fake, info)) as client:
        settings = {"temperature": 1, "seed": 5, "n": 8, "max_tokens": 40}
        answer = ask(client, **settings, logprobs=True)
        expected = generated(fake, **settings, logprobs=0)
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        assert texts == [shown(completion.parts) for completion in expected]
        assert any(" = " in text for text in texts)
        streamed = chunks(client, **settings)
        for index, text in enumerate(texts):
            own = [c for chunk in streamed for c in chunk["choices"] if c["index"] == index]
            assert "".join(c["delta"].get("content", "") for c in own) == text
        for choice, completion in zip(answer["choices"], expected, strict=True):
            chosen = [logprob for logprob in completion.logprobs or [] if logprob is not None]
            assert [entry["logprob"] for entry in choice["logprobs"]["content"]] == chosen


@pytest.fixture
def listening(scripted: Any, info: ModelInfo) -> Iterator[tuple[TestClient, list[Request]]]:
    """A client, and what the engine was asked for."""
    asked: list[Request] = []

    def script(request: Request) -> list[Token]:
        asked.append(request)
        return [Token(0, "x", "text", 0)]

    with TestClient(create_app(scripted(script), info, Defaults(0.3, 7, 11))) as client:
        yield client, asked


def said(*messages: tuple[str, str]) -> list[Any]:
    return [{"role": role, "content": content} for role, content in messages]


def test_the_history_reads_as_the_model_wrote_it(listening: Any, engine: Engine) -> None:
    client, asked = listening
    ask(client, said(("system", "Be kind."), ("user", "6*7? <|user_end|>"), ("assistant", CALL), ("user", "sure?")))
    messages = (
        Message.of("system", "Be kind."),
        Message.of("user", "6*7? <|user_end|>"),
        Message("assistant", CALLED),
        Message.of("user", "sure?"),
    )
    assert asked[0].prompt == render_prompt(engine.tokenizer, Conversation(messages))
    assert engine.tokenizer.special("<|output_start|>") in asked[0].prompt


@pytest.mark.parametrize("text", ["The answer", "", CALL, "That is [6*7 = 42] "], ids=["text", "empty", "call", "ends"])
def test_an_answer_is_continued(listening: Any, engine: Engine, text: str) -> None:
    client, asked = listening
    for more in ({}, {"add_generation_prompt": False}):
        answer = ask(client, [*QUESTION, *said(("assistant", text))], continue_final_message=True, **more)
        assert answer["choices"][0]["message"]["content"] == "x"
    parts = {CALL: CALLED, "That is [6*7 = 42] ": CALLED[:3]}.get(text, (Part("text", text),))
    conversation = Conversation((Message.of("user", "how many?"), Message("assistant", parts)))
    assert [request.prompt for request in asked] == [render_partial(engine.tokenizer, conversation)] * 2
    whole, _ = render_conversation(engine.tokenizer, conversation)
    assert asked[0].prompt == whole[:-1]


def test_what_clients_send(listening: Any, engine: Engine) -> None:
    client, asked = listening
    parts = [{"type": "text", "text": "how "}, {"type": "text", "text": "many?"}]
    ask(client, [{"role": "user", "content": parts, "name": "me"}], user="someone", metadata={"a": [1]}, store=False)
    ask(client, n=1.0, max_tokens=None, stop=None, tools=[], tool_choice="auto", response_format={"type": "text"})
    ask(client, max_completion_tokens=5, logit_bias={}, presence_penalty=0, frequency_penalty=0.0, top_p=0, top_k=-1)
    assert asked[0].prompt == asked[1].prompt == asked[2].prompt
    assert (asked[0].temperature, asked[0].top_k, asked[0].max_tokens) == (0.3, 7, 11)
    assert (asked[2].max_tokens, asked[2].top_k) == (5, 0)
    assert asked[0].seed != asked[1].seed
    messages = said(("developer", "Be kind."), ("user", "a"))
    messages += [{"role": "assistant", "content": None}, {"role": "user", "content": "b"}]
    ask(client, messages)
    expected = said(("system", "Be kind."), ("user", "a"), ("assistant", ""), ("user", "b"))
    assert asked[3].prompt == render_prompt(engine.tokenizer, Conversation.from_dict({"messages": expected}))


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": []}),
    ("messages", {"messages": None}),
    ("messages", {"messages": "hi"}),
    ("messages", {"messages": [3]}),
    ("messages", {"messages": [{"role": "user"}]}),
    ("messages", {"messages": [{"role": "user", "content": None}]}),
    ("messages", {"messages": [{"role": "user", "content": []}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
    ("messages", {"messages": [{"role": "user", "content": [IMAGE]}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}),
    ("messages", {"messages": [{"role": "user", "content": "half \ud83d"}]}),
    ("messages", {"messages": said(("robot", "hi"))}),
    ("messages", {"messages": said(("tool", "hi"))}),
    ("messages", {"messages": said(("assistant", "hi"))}),
    ("messages", {"messages": said(("system", "hi"))}),
    ("messages", {"messages": said(("user", "a"), ("user", "b"))}),
    ("messages", {"messages": said(("user", "a"), ("system", "b"), ("user", "c"))}),
    ("messages", {"messages": said(("user", "a"), ("assistant", "b"))}),
    ("messages", {"messages": QUESTION * 2049}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 257}]}),
    (
        "messages",
        {"messages": [*QUESTION, {"role": "assistant", "tool_calls": [{"id": "1"}]}, *QUESTION]},
    ),
    ("messages", {"messages": [*QUESTION, {"role": "assistant", "function_call": {"name": "f"}}, *QUESTION]}),
    ("messages", {"messages": [{"role": "user", "content": ["hi"]}]}),
    ("continue_final_message", {"continue_final_message": True}),
    (
        "add_generation_prompt",
        {
            "messages": said(("user", "a"), ("assistant", "b")),
            "continue_final_message": True,
            "add_generation_prompt": True,
        },
    ),
    ("add_generation_prompt", {"add_generation_prompt": False}),
    ("response_format", {"response_format": {"type": "json_object"}}),
    ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
    ("response_format", {"response_format": "text"}),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("functions", {"functions": [{"name": "f"}]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ("function_call", {"function_call": {"name": "f"}}),
    ("modalities", {"modalities": ["text", "audio"]}),
    ("audio", {"audio": {"voice": "alloy", "format": "wav"}}),
    ("logit_bias", {"logit_bias": {"5": 1}}),
    ("presence_penalty", {"presence_penalty": 0.5}),
    ("frequency_penalty", {"frequency_penalty": -1}),
    ("frequency_penalty", {"frequency_penalty": "0"}),
    ("n", {"n": 0}),
    ("n", {"n": 17}),
    ("n", {"n": True}),
    ("n", {"n": 1.5}),
    ("n", {"n": "1"}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": 1 << 31}),
    ("max_completion_tokens", {"max_completion_tokens": 0}),
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 2.1}),
    ("temperature", {"temperature": "1"}),
    ("temperature", {"temperature": True}),
    ("top_p", {"top_p": 1.1}),
    ("top_k", {"top_k": -2}),
    ("min_p", {"min_p": 2}),
    ("repetition_penalty", {"repetition_penalty": 0}),
    ("seed", {"seed": 1 << 63}),
    ("seed", {"seed": 0.5}),
    ("stop", {"stop": 5}),
    ("stop", {"stop": [5]}),
    ("stop", {"stop": ""}),
    ("stop", {"stop": ["a"] * 17}),
    ("stop", {"stop": "a" * 257}),
    ("stop", {"stop": "\udc00"}),
    ("stream", {"stream": 1}),
    ("stream_options", {"stream_options": []}),
    ("stream_options", {"stream_options": {"include_usage": "yes"}}),
    ("logprobs", {"logprobs": 1}),
    ("top_logprobs", {"top_logprobs": 3}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    ("model", {"model": 5}),
]


@pytest.mark.parametrize(("param", "change"), REFUSED, ids=[f"{i}-{param}" for i, (param, _) in enumerate(REFUSED)])
def test_a_refusal_names_the_parameter(client: TestClient, param: str, change: dict[str, Any]) -> None:
    body = json.dumps({"messages": QUESTION, **change})  # in ASCII, as half characters are no UTF-8
    response = client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error" and error["message"]


def test_the_parameter_is_the_one_that_the_message_is_about(client: TestClient) -> None:
    for change in ({"temperature": 5, "messages": [{"role": "robot"}]}, {"n": 0, "stop": [5]}, {"n": 0, "seed": "a"}):
        error = refusal(client, PATH, {"messages": QUESTION, **change})
        assert error["message"].startswith(error["param"])


def test_messages_are_counted_as_in_their_list(client: TestClient) -> None:
    for messages, place in (
        (said(("developer", "a"), ("user", "b"), ("developer", "c"), ("user", "d")), 2),
        (said(("user", "a"), ("robot", "b")), 1),
        (said(("assistant", "a"), ("user", "b")), 0),
    ):
        message = refusal(client, PATH, {"messages": messages})["message"]
        assert message.startswith(f"messages.{place}.role: ")
        assert "developer" in message or place != 2


def test_an_image_is_called_by_its_name(client: TestClient) -> None:
    error = refusal(client, PATH, {"messages": [{"role": "user", "content": [IMAGE]}]})
    assert "image_url" in error["message"] and "text only" in error["message"]


def test_the_oldest_exchanges_are_left_out(listening: Any, engine: Engine) -> None:
    client, asked = listening
    system = said(("system", "Be kind."))
    exchange = said(("user", "how many letters?"), ("assistant", "x" * 50))
    ask(client, [*system, *exchange * 1000, *QUESTION])
    prompt = engine.tokenizer.decode(asked[0].prompt)
    assert prompt.startswith("<|bos|><|user_start|>Be kind.\n\nhow many letters?")
    assert prompt.endswith("<|user_start|>how many?<|user_end|><|assistant_start|>")
    assert 400 < len(asked[0].prompt) < engine.window


@pytest.mark.parametrize("length", [600, 100_000, 1_000_000])
def test_a_last_message_that_does_not_fit(client: TestClient, length: int) -> None:
    long = said(("user", "é" * length))
    for body in (
        {"messages": long},
        {"messages": [{**long[0], "role": "system"}, *QUESTION]},
        {"messages": [*long, *said(("assistant", "e"))], "continue_final_message": True},
        {"messages": [*QUESTION, *said(("assistant", "e" * length))], "continue_final_message": True},
    ):
        error = refusal(client, PATH, body)
        assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")


def test_the_longest_message_that_fits(client: TestClient, engine: Engine) -> None:
    text = "\0"  # always a token of its own
    room = engine.window - len(render_prompt(engine.tokenizer, Conversation((Message.of("user", ""),))))
    fits = ask(client, said(("user", text * (room - 1))), max_tokens=9)
    assert fits["usage"]["prompt_tokens"] == engine.window - 1 and fits["usage"]["completion_tokens"] <= 1
    error = refusal(client, PATH, {"messages": said(("user", text * room))})
    assert error["code"] == "context_length_exceeded"


def test_more_tokens_than_there_is_room_for(client: TestClient, engine: Engine) -> None:
    [choice] = ask(client, temperature=0, max_tokens=10**9)["choices"]
    [expected] = generated(engine, temperature=0, max_tokens=10**9)
    assert choice["message"]["content"] == shown(expected.parts)
    assert choice["finish_reason"] == expected.finish


def test_too_many_waiting(scripted: Any, info: ModelInfo) -> None:
    engine = scripted(lambda request: [])
    engine.max_batch = 0
    with TestClient(create_app(engine, info, max_waiting=0)) as client:
        response = client.post(PATH, json={"messages": QUESTION})
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["error"]["code"] == "rate_limit_exceeded"


def test_a_server_that_ends(app: FastAPI) -> None:
    with TestClient(app) as client:
        app.state.answers.drain()
        response = client.post(PATH, json={"messages": QUESTION})
        assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
        assert response.json()["error"]["type"] == "server_error"


def test_an_answer_that_takes_too_long(scripted: Any, info: ModelInfo) -> None:
    engine = scripted(lambda request: iter(lambda: Token(0, "x", "text", 0), None))
    with TestClient(create_app(engine, info, max_seconds=0.2)) as client:
        response = client.post(PATH, json={"messages": QUESTION})
        assert response.status_code == 408
        assert response.headers["x-should-retry"] == "false"  # what the openai client heeds
        *_, last = chunks(client)
        assert last["error"]["code"] == response.json()["error"]["code"] == "timeout"


def test_a_fault_of_ours_is_told_without_its_details(
    scripted: Any, info: ModelInfo, caplog: pytest.LogCaptureFixture
) -> None:
    def script(request: Request) -> Iterator[Token]:
        yield Token(0, "x", "text", 0)
        raise ValueError("secret")

    with TestClient(create_app(scripted(script), info)) as client:
        response = client.post(PATH, json={"messages": QUESTION})
        assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
        *_, last = chunks(client)
        assert last["error"]["type"] == "server_error"
        assert "secret" not in response.text + json.dumps(last)
    assert "secret" in caplog.text


def test_a_client_that_waits_for_a_whole_answer_is_noticed(
    scripted: Callable[..., Any], info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    import httpx

    engine = scripted(lambda request: iter(lambda: Token(0, "x", "text", 0), None))
    address = served(create_app(engine, info))
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(address + PATH, json={"messages": QUESTION}, timeout=0.5)
    assert engine.ended.wait(20)


def without_result(engine: Engine, before: str, after: str) -> list[int]:
    """What a model says that calls the calculator with words."""
    encode, special = engine.tokenizer.encode, engine.tokenizer.special
    call = [special("<|python_start|>"), *encode("3*how many"), special("<|python_end|>")]
    return [*encode(before), *call, *encode(after), special("<|assistant_end|>")]


WITHOUT_RESULT = pytest.mark.parametrize(
    ("before", "after", "text"),
    [("It is ", " so.", "It is so."), ("It is ", "", "It is "), ("", " So.", "So."), ("", "", "[3*how many] ")],
    ids=["between words", "at the end", "first", "alone"],
)


@WITHOUT_RESULT
def test_a_tool_call_without_a_result_is_not_said(
    engine: Engine, info: ModelInfo, before: str, after: str, text: str
) -> None:
    prompt = render_prompt(engine.tokenizer, Conversation.from_dict({"messages": QUESTION}))
    said = without_result(engine, before, after)
    talking = parrot(engine.tokenizer, said, len(prompt))
    talking.model.num_params = lambda: 1  # type: ignore[method-assign]
    with TestClient(create_app(talking, info)) as client:
        whole = ask(client, temperature=0, logprobs=True)
        assert whole["choices"][0]["message"]["content"] == text
        # The tokens are there for who asks for them, and count.
        told = [token["token"] for token in whole["choices"][0]["logprobs"]["content"]]
        assert "".join(told).count("3*how many") == 1
        assert whole["usage"]["completion_tokens"] == len(said) - 1
        for settings in ({}, {"logprobs": True}):
            pieces = [
                chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks(client, temperature=0, **settings)
            ]
            assert "".join(pieces) == text
        # A call is not even begun to be shown.
        assert all("how" not in piece for piece in pieces) or text.startswith("[")
