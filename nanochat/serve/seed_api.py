"""Upstream's chat API: POST /chat/completions, answered as a stream of events."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from nanochat import inference
from nanochat.inference import fit_conversation
from nanochat.serve.answers import Answer, Answers, Busy
from nanochat.serve.info import Defaults
from nanochat.serve.schema import ChatBody

BUSY = {"detail": "too many requests are waiting, try again soon"}
# A proxy in between must neither cache nor buffer the events.
SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
logger = logging.getLogger(__name__)


def routes(answers: Answers, defaults: Defaults) -> APIRouter:
    router = APIRouter()
    engine = answers.engine

    @router.post("/chat/completions")
    async def chat_completions(body: ChatBody) -> Response:
        if answers.full:  # checked first, since making a prompt takes time
            return JSONResponse(BUSY, status_code=503)
        max_tokens = defaults.max_tokens if body.max_tokens is None else body.max_tokens
        prompt = fit_conversation(engine.tokenizer, body.conversation(), engine.window, max_tokens)
        request = inference.Request(
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=defaults.temperature if body.temperature is None else body.temperature,
            top_k=defaults.top_k if body.top_k is None else body.top_k,
            seed=secrets.randbits(31),
        )
        try:
            return _Events(answers.begin(request))
        except Busy:
            return JSONResponse(BUSY, status_code=503)

    return router


class _Events(StreamingResponse):
    """An answer as it comes; the work on it ends with the response, even if that never began."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(_events(answer), media_type="text/event-stream", headers=SSE_HEADERS)
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answer.leave()


async def _events(answer: Answer) -> AsyncIterator[str]:
    """Text as {"token": ..., "gpu": 0}, a tool call as {"tool": kind, "text": ...}, last {"done": true}."""
    try:
        async for token in answer:
            if not token.text:
                continue
            if token.kind == "text":
                yield _event({"token": token.text, "gpu": 0})
            else:
                yield _event({"tool": token.kind, "text": token.text, "gpu": 0})
    except Exception:
        logger.exception("an answer failed")
        yield _event({"error": "the answer failed, see the server's log"})
    yield _event({"done": True})


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
