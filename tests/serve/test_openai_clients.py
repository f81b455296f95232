"""Programs that others wrote: the openai client, and llm on the command line."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fastapi import FastAPI

from nanochat.conversation import Conversation
from nanochat.inference import Engine, Request, Token
from nanochat.serve import ModelInfo, create_app
from nanochat.serve.shown import shown
from nanochat.tokenizer import render_prompt

QUESTION: Any = [{"role": "user", "content": "how many?"}]


@pytest.fixture
def address(app: FastAPI, served: Callable[[FastAPI], str]) -> str:
    return served(app) + "/v1"


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def expected(engine: Engine) -> str:
    """What the model answers to QUESTION."""
    prompt = render_prompt(engine.tokenizer, Conversation.from_dict({"messages": QUESTION}))
    [completion] = engine.generate([Request(prompt, 20, 0)])
    return shown(completion.parts)


def test_a_chat(client: openai.OpenAI, expected: str) -> None:
    model = client.models.list().data[0].id
    assert client.models.retrieve(model).id == model == "sft-d2"
    asked: dict[str, Any] = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 20}
    answer = client.chat.completions.create(**asked, logprobs=True, top_logprobs=1)
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].logprobs and len(answer.choices[0].logprobs.content or []) == 20
    assert answer.usage and answer.usage.completion_tokens == 20
    assert type(answer).model_validate(answer.model_dump(), strict=True) == answer
    text = ""
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
        else:
            assert chunk.usage == answer.usage
    assert text == expected
    with client.chat.completions.stream(**asked) as stream:  # which puts the chunks together itself
        assert [event.content for event in stream if event.type == "content.done"] == [expected]


def test_completions(client: openai.OpenAI, engine: Engine) -> None:
    asked: dict[str, Any] = {"model": "any", "prompt": "how", "temperature": 0, "max_tokens": 5}
    answer = client.completions.create(**asked, echo=True, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.token_logprobs and len(logprobs.token_logprobs) == len(logprobs.tokens or [])
    assert type(answer).model_validate(answer.model_dump(), strict=True) == answer
    streamed = client.completions.create(**asked, stream=True)
    assert "how" + "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text
    two = client.completions.create(**{**asked, "prompt": [[1, 2], [3]]})
    assert [choice.index for choice in two.choices] == [0, 1]


def test_our_own_settings(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "any", "messages": QUESTION, "max_tokens": 8, "seed": 1}
    likeliest = client.chat.completions.create(**asked, temperature=0)
    drawn = client.chat.completions.create(**asked, temperature=2, extra_body={"top_k": 1})
    assert drawn.choices[0].message.content == likeliest.choices[0].message.content
    more: dict[str, Any] = {"messages": [*QUESTION, {"role": "assistant", "content": "Ther"}]}
    continued = client.chat.completions.create(
        **{**asked, **more}, temperature=0, extra_body={"continue_final_message": True}
    )
    assert continued.choices[0].message.content != likeliest.choices[0].message.content


def test_errors_are_its_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="any", messages=[])
    assert refused.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="any", messages=QUESTION, response_format={"type": "json_object"})
    assert refused.value.param == "response_format"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("gpt-4o")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="any", input="a")


def test_asynchronously_side_by_side(address: str, expected: str) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=address, api_key="none") as client:

            async def one(stream: bool) -> str:
                asked: dict[str, Any] = {"model": "any", "messages": QUESTION, "temperature": 0, "max_tokens": 20}
                if not stream:
                    answer = await client.chat.completions.create(**asked)
                    return answer.choices[0].message.content
                chunks = await client.chat.completions.create(**asked, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

            return await asyncio.gather(*(one(bool(place % 2)) for place in range(16)))

    assert asyncio.run(ask()) == [expected] * 16


def test_leaving_ends_the_answer(
    scripted: Callable[..., Any], info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    engine = scripted(lambda request: iter(lambda: Token(0, "x", "text", 0), None))
    address = served(create_app(engine, info)) + "/v1"
    with openai.OpenAI(base_url=address, api_key="none") as client:
        stream = client.chat.completions.create(model="any", messages=QUESTION, stream=True)
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        next(iter(stream))
        stream.close()
        assert engine.ended.wait(20)

    async def cancelled() -> None:
        async with openai.AsyncOpenAI(base_url=address, api_key="none", max_retries=0) as client:
            answer = asyncio.create_task(client.chat.completions.create(model="any", messages=QUESTION))
            while not engine.live:
                await asyncio.sleep(0.005)
            answer.cancel()

    engine.ended.clear()
    asyncio.run(cancelled())
    assert engine.ended.wait(20)


def test_an_error_inside_a_stream(
    scripted: Callable[..., Any], info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    def script(request: Request) -> Iterator[Token]:
        yield Token(0, "x", "text", 0)
        raise ValueError

    address = served(create_app(scripted(script), info)) + "/v1"
    with openai.OpenAI(base_url=address, api_key="none") as client:
        stream = client.chat.completions.create(model="any", messages=QUESTION, stream=True)
        with pytest.raises(openai.APIError, match="the answer failed"):
            list(stream)


@pytest.mark.slow
def test_llm(address: str, engine: Engine, tmp_path: Path) -> None:
    """It knows the server from a file that its documentation describes."""
    for name, kind in (("chat", ""), ("base", "  completion: true\n")):
        with (tmp_path / "extra-openai-models.yaml").open("a") as file:
            file.write(f"- model_id: {name}\n  model_name: sft-d2\n  api_base: {address}\n{kind}")
    env = {name: value for name, value in os.environ.items() if "OPENAI" not in name}
    env |= {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": "", "PYTHONUTF8": "1"}

    def llm(*args: str) -> str:
        call = [sys.executable, "-m", "llm", *args]
        done = subprocess.run(call, env=env, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    bare = ["-o", "temperature", "0", "-o", "max_tokens", "12"]
    asked = {"messages": [{"role": "system", "content": "Be kind."}, *QUESTION]}
    prompt = render_prompt(engine.tokenizer, Conversation.from_dict(asked))
    [first] = engine.generate([Request(prompt, 12, 0)])
    assert llm("-m", "chat", *bare, "-s", "Be kind.", "how many?") == shown(first.parts).strip()
    assert llm("-m", "chat", "--no-stream", *bare, "-s", "Be kind.", "how many?") == shown(first.parts).strip()
    assert llm("-m", "chat", "-c", *bare, "sure?")  # goes on with the conversation
    [text] = engine.generate([Request([engine.tokenizer.bos, *engine.tokenizer.encode("how")], 12, 0)])
    assert llm("-m", "base", *bare, "how") == shown(text.parts).strip()
