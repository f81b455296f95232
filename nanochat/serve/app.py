"""The web app: the page at /, and the routes of its APIs."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from nanochat.inference import Engine
from nanochat.serve import seed_api, status
from nanochat.serve.answers import Answers
from nanochat.serve.body_limit import BodyLimit
from nanochat.serve.info import Defaults, ModelInfo
from nanochat.serve.schema import MAX_BODY_BYTES, explain

STATIC = Path(__file__).parent / "static"
# The page runs its own files and nothing else, whatever a model or a user writes into it.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

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

    app.include_router(status.routes(answers, info, defaults))
    app.include_router(seed_api.routes(answers, defaults))
    return app


def run(app: FastAPI, server: socket.socket) -> None:
    """Serve on a listening socket until Ctrl-C or SIGTERM."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    with contextlib.suppress(KeyboardInterrupt):  # raised again by uvicorn after it has shut down
        uvicorn.Server(config).run(sockets=[server])
