"""The web app: the page at /, and the routes of its APIs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from nanochat.inference import Engine
from nanochat.serve import login, offline, openai_chat, openai_completions, openai_models, seed_api, status, watch
from nanochat.serve.access import Access, Guard
from nanochat.serve.answers import MAX_SECONDS, MAX_WAITING, Answers
from nanochat.serve.body_limit import BodyLimit
from nanochat.serve.files import Files
from nanochat.serve.info import Defaults, ModelInfo
from nanochat.serve.openai_errors import answer_to, is_openai
from nanochat.serve.page import answering, card, catalog, feedback, look
from nanochat.serve.page.kept import SECONDS, Kept
from nanochat.serve.page.models import ENDING, Models
from nanochat.serve.prometheus import Counted, Meter
from nanochat.serve.prompt_log import PromptLog
from nanochat.serve.schema import explain


@dataclass
class Work:
    """All that this server is to finish before it ends (see http.py)."""

    models: Models
    kept: Kept

    @property
    def idle(self) -> bool:
        return self.models.idle and self.kept.idle

    def drain(self) -> None:
        self.models.drain()

    def close(self) -> None:
        self.kept.close(ENDING)
        self.models.close()


def create_app(
    engine: Engine | Sequence[Engine],
    info: ModelInfo,
    defaults: Defaults | None = None,
    max_waiting: int = MAX_WAITING,
    max_seconds: float = MAX_SECONDS,
    access: Access | None = None,
    log_prompts: bool = False,
    kept_seconds: float = SECONDS,
) -> FastAPI:
    """An app that answers with `engine`, or with several of the same model, least loaded first.

    max_waiting: samples that may wait; more requests are refused. max_seconds: for one answer, its wait included.
    access: who may ask; without it, all but other websites' pages. log_prompts: on stderr. kept_seconds: for which the
    page's own answers are kept when nobody reads them.
    """
    defaults, access = defaults or Defaults(), access or Access(loopback=False)
    answers = Answers(engine, max_waiting, max_seconds)
    known = bool(access.key) or access.loopback  # how this machine's trainings go is nothing for strangers
    models, kept = Models(answers, info, picker=known), Kept(kept_seconds)

    work = Work(models, kept)
    editions = offline.Editions()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        work.close()

    # A redirect to the path without a slash would name this server as it sees itself: behind a proxy, by plain http.
    app = FastAPI(title="nanochat", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.answers = work
    meter, inside = Meter(answers), app.build_middleware_stack
    # Around the whole stack, so that FastAPI's own answers to what fails are guarded and counted, too.
    app.build_middleware_stack = lambda: Counted(Guard(inside(), access), meter)  # type: ignore[method-assign]
    if log_prompts:
        app.add_middleware(PromptLog)
    app.add_middleware(BodyLimit)
    files = Files()
    app.mount("/static", files, name="static")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"detail": explain(list(error.errors()))}, status_code=422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return answer_to(error) if is_openai(request.url.path) else await http_exception_handler(request, error)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return files.page("index.html", request, {offline.VERSION_HEADER: editions.now().version})

    app.include_router(offline.routes(editions))
    app.include_router(login.routes(access))
    app.include_router(status.routes(answers, info, defaults))
    app.include_router(meter.routes())
    app.include_router(seed_api.routes(answers, defaults))
    app.include_router(openai_models.routes(answers, info))
    app.include_router(openai_chat.routes(answers, info, defaults))
    app.include_router(openai_completions.routes(answers, info, defaults))
    app.include_router(catalog.routes(models))
    app.include_router(card.routes(models))
    app.include_router(answering.routes(models, kept, defaults))
    app.include_router(look.routes(models, defaults))
    app.include_router(feedback.routes(access, info))
    if known:
        app.include_router(watch.routes())
    return app
