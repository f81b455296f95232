"""Upstream's chat API: POST /chat/completions, answered as a stream of events."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from nanochat import inference
from nanochat.inference import Token, Visible, fit_conversation
from nanochat.serve.answers import Answer, Answers, Busy, Draining, OutOfTime, Refused
from nanochat.serve.info import Defaults
from nanochat.serve.schema import ChatBody
from nanochat.serve.streaming import EventStream, client_of, event_of

DESCRIPTIONS = {
    400: "the body is not text",
    413: "the body is too large",
    422: "the body is not a request",
    429: "too many wait",
    503: "the server is ending",
}
BUSY = {"detail": "too many requests are waiting, try again soon"}
ENDING = {"detail": "the server is ending"}
logger = logging.getLogger(__name__)


class Detail(BaseModel):
    """Every answer but a stream."""

    detail: str


RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "events", "content": {"text/event-stream": {}}},
    **{status: {"model": Detail, "description": said} for status, said in DESCRIPTIONS.items()},
}


def routes(answers: Answers, defaults: Defaults) -> APIRouter:
    router = APIRouter()
    engine = answers.engine

    @router.post("/chat/completions", response_class=StreamingResponse, responses=RESPONSES)
    async def chat_completions(body: ChatBody, http: Request) -> Response:
        client = client_of(http)
        try:
            answers.check(client)  # first, since making a prompt takes time
            max_tokens = defaults.max_tokens if body.max_tokens is None else body.max_tokens
            request = inference.Request(
                prompt=await asyncio.to_thread(
                    fit_conversation, engine.tokenizer, body.conversation(), engine.window, max_tokens
                ),
                max_tokens=max_tokens,
                temperature=defaults.temperature if body.temperature is None else body.temperature,
                top_k=defaults.top_k if body.top_k is None else body.top_k,
                seed=secrets.randbits(31),
            )
            answer = answers.begin(request, client)
        except Refused as refused:
            retry = {"Retry-After": str(refused.retry_after)}
            if isinstance(refused, Busy):
                return JSONResponse(BUSY, status_code=429, headers=retry)
            return JSONResponse(ENDING, status_code=503, headers=retry)
        return EventStream(answer, _events(answer))

    return router


async def _events(answer: Answer) -> AsyncIterator[str]:
    """Text as {"token": ..., "gpu": 0}, a tool call as {"tool": kind, "text": ...}, last {"done": true}."""
    visible, gpu = Visible(), 0
    try:
        async for piece in answer:
            gpu = piece.gpu
            events = [_said(seen, gpu) for token in piece.tokens for seen in visible.feed(token) if seen.text]
            if events:
                yield "".join(events)  # sent in one go
        yield "".join(_said(seen, gpu) for seen in visible.end() if seen.text)
    except OutOfTime:
        yield event_of({"error": "the answer took too long and was stopped"})
    except Draining:
        yield event_of({"error": "the server ends"})
    except Exception:
        logger.exception("an answer failed")
        yield event_of({"error": "the answer failed, see the server's log"})
    yield event_of({"done": True})


def _said(token: Token, gpu: int) -> str:
    if token.kind == "text":
        return event_of({"token": token.text, "gpu": gpu})
    return event_of({"tool": token.kind, "text": token.text, "gpu": gpu})
