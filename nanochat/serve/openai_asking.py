"""From a body to requests that the engines answer: settings, and the limits that depend on the model."""

from __future__ import annotations

import secrets
from typing import Any

from nanochat.conversation import Conversation, Message, Part
from nanochat.inference import Engine, Request, newest_exchanges
from nanochat.serve.info import Defaults
from nanochat.serve.openai_bodies import MAX_TOLD, Body, ChatRequest
from nanochat.serve.openai_errors import ApiError
from nanochat.serve.shown import Reading
from nanochat.tokenizer import Tokenizer

LEAST_TOP_P = 1e-9  # OpenAI's 0 means the likeliest token alone


def settings(body: Body, defaults: Defaults) -> dict[str, Any]:
    """How to choose tokens, as arguments of the engine's Request."""
    top_k = defaults.top_k if body.top_k is None else max(body.top_k, 0)  # -1 is vLLM's "all"
    return {
        "temperature": defaults.temperature if body.temperature is None else body.temperature,
        "top_k": top_k,
        "top_p": 1.0 if body.top_p is None else max(body.top_p, LEAST_TOP_P),
        "min_p": body.min_p or 0.0,
        "repetition_penalty": 1.0 if body.repetition_penalty is None else body.repetition_penalty,
        "seed": secrets.randbits(31) if body.seed is None else body.seed,
        "n": body.n or 1,
        "stop": body.stop or [],
    }


def too_long(problem: str, window: int, param: str) -> ApiError:
    return ApiError(f"{problem}; the model's context has {window} tokens", param, "context_length_exceeded")


def _check(body: ChatRequest) -> None:
    """ApiError where the messages are in no order that can be answered."""
    if body.continue_final_message:
        if body.messages[-1].role != "assistant":
            raise ApiError("the last message is not the assistant's", "continue_final_message")
        if body.add_generation_prompt:
            raise ApiError("a message is continued or a new one begins, not both", "add_generation_prompt")
    else:
        if body.messages[-1].role != "user":
            problem = "the last message must be the user's (or the assistant's, with continue_final_message)"
            raise ApiError(problem, "messages")
        if body.add_generation_prompt is False:
            raise ApiError("without continue_final_message the answer is a new message", "add_generation_prompt")
    if body.top_logprobs and not body.logprobs:
        raise ApiError("top_logprobs needs logprobs", "top_logprobs")
    first = int(body.messages[0].role in ("system", "developer"))
    for place, message in enumerate(body.messages[first:], first):
        expected = "assistant" if (place - first) % 2 else "user"
        if message.role != expected:
            problem = f"messages.{place}.role: it is {message.role}, not {expected}: user and assistant take turns"
            raise ApiError(f"{problem}, after at most one system message", "messages")


def chat_prompt(engine: Engine, body: ChatRequest, max_tokens: int) -> list[int]:
    """Ids of the newest exchanges that leave room for an answer; ApiError when the last message does not, and when the
    messages are in no order that can be answered."""
    _check(body)
    tokenizer, window = engine.tokenizer, engine.window
    conversation = _conversation(body)
    messages = conversation.messages
    newest = messages[-1:] if messages[-1].role == "user" else messages[-2:]
    system = messages[:1] if messages[0].role == "system" else ()
    if sum(len(message.text) for message in system + newest) > window * tokenizer.longest:
        raise too_long("the last message is too long", window, "messages")  # to see that, it need not be encoded
    ids = newest_exchanges(tokenizer, conversation, window, max_tokens)
    if len(ids) >= window:
        raise too_long(f"the last message needs {len(ids)} tokens", window, "messages")
    return ids


def _conversation(body: ChatRequest) -> Conversation:
    """With the tool calls of the model's answers; the newest answers are read first, since reading has a bound."""
    messages, reading = [], Reading()
    for message in reversed(body.messages):
        text = message.content or ""
        if message.role == "assistant":
            messages.append(Message("assistant", reading.parts(text)))
        else:
            messages.append(Message("user" if message.role == "user" else "system", (Part("text", text),)))
    return Conversation(tuple(reversed(messages)))


def text_prompts(tokenizer: Tokenizer, texts: list[str], window: int) -> list[list[int]]:
    """Ids of each text behind <|bos|>."""
    for place, text in enumerate(texts):
        if len(text) > window * tokenizer.longest:
            raise too_long(f"prompt {place} is too long", window, "prompt")
    return [[tokenizer.bos, *tokenizer.encode(text)] for text in texts]


def check_prompts(prompts: list[list[int]], engine: Engine) -> None:
    """ApiError where a prompt does not fit the model."""
    for place, prompt in enumerate(prompts):
        if len(prompt) >= engine.window:
            raise too_long(
                f"prompt {place} has {len(prompt)} tokens, and needs room for one more", engine.window, "prompt"
            )
        if not 0 <= min(prompt) <= max(prompt) < engine.tokenizer.vocab_size:
            problem = f"prompt {place} holds an id that is not from 0 to {engine.tokenizer.vocab_size - 1}"
            raise ApiError(problem, "prompt")


def told(request: Request, window: int) -> int:
    """How many log-probabilities the answer may hold."""
    count = 0
    if request.prompt_logprobs is not None:
        count += len(request.prompt) * (request.prompt_logprobs + 1)
    if request.logprobs is not None:
        count += min(request.max_tokens, window - len(request.prompt)) * (request.logprobs + 1)
    return count * request.n


def check_told(requests: list[Request], window: int) -> int:
    """How many log-probabilities all answers may hold; ApiError where that is too much at once."""
    count = sum(told(request, window) for request in requests)
    if count > MAX_TOLD:
        raise ApiError(f"these would be {count} log-probabilities, and {MAX_TOLD} are told at once", "logprobs")
    return count
