"""The web app: the page at /, upstream's chat API, health and statistics."""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from nanochat import inference
from nanochat.inference import Engine, fit_conversation
from nanochat.serve.answers import Answer, Answers, Busy
from nanochat.serve.body_limit import BodyLimit
from nanochat.serve.info import Defaults, ModelInfo
from nanochat.serve.schema import MAX_BODY_BYTES, ChatBody, explain

STATIC = Path(__file__).parent / "static"
# The page runs its own files and nothing else, whatever a model or a user writes into it.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
BUSY = {"detail": "too many requests are waiting, try again soon"}
logger = logging.getLogger(__name__)


def create_app(engine: Engine, info: ModelInfo, defaults: Defaults | None = None, max_waiting: int = 32) -> FastAPI:
    """An app that answers with `engine`."""
    defaults = defaults or Defaults()
    answers = Answers(engine, max_waiting)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        answers.close()

    app = FastAPI(title="nanochat", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"detail": explain(list(error.errors()))}, status_code=422)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "ready": True, "model": asdict(info), "defaults": asdict(defaults)}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return asdict(answers.stats)

    @app.post("/chat/completions")
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

    return app


# A proxy in between must neither cache nor buffer the events.
SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


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


def run(app: FastAPI, server: socket.socket) -> None:
    """Serve on a listening socket until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn after it has shut down
        uvicorn.Server(config).run(sockets=[server])
