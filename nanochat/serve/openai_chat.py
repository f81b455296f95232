"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from fastapi import APIRouter, Request, Response

from nanochat import inference
from nanochat.inference import Completion, Token
from nanochat.serve.answers import Answer, Answers
from nanochat.serve.info import Defaults, ModelInfo
from nanochat.serve.openai_asking import chat_prompt, check_told, settings
from nanochat.serve.openai_bodies import ChatRequest
from nanochat.serve.openai_errors import error_body, error_of
from nanochat.serve.openai_logprobs import Telling
from nanochat.serve.openai_models import model_id
from nanochat.serve.openai_replies import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprobs,
    ChatMessage,
    ChatReply,
    Delta,
    Usage,
)
from nanochat.serve.openai_route import A_LOGPROB, DONE, ERRORS, OpenAIRoute, aside, event, reply
from nanochat.serve.shown import shown
from nanochat.serve.streaming import EventStream, client_of, whole

A_MESSAGE = 200  # characters that take as long as one more message
OK: dict[str, Any] = {"model": ChatReply, "content": {"text/event-stream": {}}, "description": "The answer"}


def routes(answers: Answers, info: ModelInfo, defaults: Defaults) -> APIRouter:
    router = APIRouter(route_class=OpenAIRoute, tags=["openai"])
    engine = answers.engine
    model = model_id(info)

    @router.post("/v1/chat/completions", responses={200: OK, **ERRORS})
    async def chat_completions(body: ChatRequest, http: Request) -> Response:
        """Answer the last user message, or go on with the last answer (`continue_final_message`)."""
        answers.check(client_of(http))  # first, since making a prompt takes time
        max_tokens = body.max_completion_tokens or body.max_tokens or defaults.max_tokens
        size = sum(len(message.content or "") + A_MESSAGE for message in body.messages)
        request = inference.Request(
            prompt=await aside(size, lambda: chat_prompt(engine, body, max_tokens)),
            max_tokens=max_tokens,
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            **settings(body, defaults),
        )
        count = check_told([request], engine.window)
        answer = answers.begin(request, client_of(http))
        about: dict[str, Any] = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        if body.stream:
            return EventStream(answer, _events(answer, request, about, body.include_usage))
        [completions] = await whole(answer, http)

        def made() -> Response:
            choices = [_choice(completion) for completion in completions]
            usage = usage_of([request], completions)
            return reply(ChatReply(**about, object="chat.completion", choices=choices, usage=usage))

        return await aside(A_LOGPROB * count, made)

    def _choice(completion: Completion) -> ChatChoice:
        text, logprobs = shown(completion.parts), None
        if completion.tokens is not None:
            logprobs = Telling(engine.tokenizer).chat(completion.tokens)[1]
        message = ChatMessage(role="assistant", content=text)
        return ChatChoice(index=completion.sample, message=message, logprobs=logprobs, finish_reason=completion.finish)

    async def _events(
        answer: Answer, request: inference.Request, about: dict[str, Any], include_usage: bool
    ) -> AsyncIterator[str]:
        tellings = [Telling(engine.tokenizer) for _ in range(request.n)]
        completions: list[Completion] = []
        more: dict[str, Any] = {"usage": None} if include_usage else {}

        def chunk(sample: int, delta: Delta, logprobs: ChatLogprobs | None = None, finish: Any = None) -> str:
            choice = ChatChunkChoice(index=sample, delta=delta, logprobs=logprobs, finish_reason=finish)
            return event(ChatChunk(**about, object="chat.completion.chunk", choices=[choice], **more))

        try:
            yield "".join(chunk(sample, Delta(role="assistant", content="")) for sample in range(request.n))
            async for piece in answer:
                events = []
                for sample, tokens in by_sample(piece.tokens):
                    logprobs = None
                    if request.logprobs is None:
                        text = tellings[sample].text(tokens)
                    else:
                        text, logprobs = tellings[sample].chat(tokens)
                    if text or (logprobs and logprobs.content):
                        events.append(chunk(sample, Delta(content=text), logprobs))
                for completion in piece.finished:
                    if end := tellings[completion.sample].end():
                        events.append(chunk(completion.sample, Delta(content=end)))
                    events.append(chunk(completion.sample, Delta(), None, completion.finish))
                completions += piece.finished
                if events:
                    yield "".join(events)
            if include_usage:
                usage = usage_of([request], completions)
                yield event(ChatChunk(**about, object="chat.completion.chunk", choices=[], usage=usage))
        except Exception as error:
            yield error_event(error)
        yield DONE

    return router


def by_sample(tokens: Sequence[Token]) -> list[tuple[int, list[Token]]]:
    """Tokens that came at once, by the sample that they belong to."""
    ordered = sorted(tokens, key=attrgetter("sample"))  # which keeps the order within a sample
    return [(sample, list(some)) for sample, some in groupby(ordered, key=attrgetter("sample"))]


def usage_of(requests: Sequence[inference.Request], completions: Sequence[Completion]) -> Usage:
    """Of prompts, each counted once, and of all their samples."""
    prompt = sum(len(request.prompt) for request in requests)
    completion = sum(len(completion.ids) for completion in completions)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def error_event(error: Exception) -> str:
    status, message, param, code, _ = error_of(error)
    return f"data: {error_body(status, message, param, code)}\n\n"
