"""/page/look: how likely each token of an answer was, and what the layers had at one of them (docs/looking.md)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import Field

from nanochat.console import UserError
from nanochat.inference import Engine
from nanochat.inference.looking import look_inside
from nanochat.serve.info import Defaults
from nanochat.serve.openai_bodies import MAX_IDS
from nanochat.serve.page.bodies import Asked, Id
from nanochat.serve.page.models import ENDING, Models
from nanochat.serve.page.prompts import asked

MOST_WAITING = 8  # looks that wait for the one that is taken


class LookBody(Asked):
    """ids: of the answer. token: which of them is explained, by its place among them; len(ids): the one to come; null:
    the last. max_tokens: the longest answer that was asked for, by which the start of a long conversation was left out.
    """

    ids: list[Id] = Field(default_factory=list, max_length=MAX_IDS)
    token: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None


def routes(models: Models, defaults: Defaults) -> APIRouter:
    router = APIRouter(prefix="/page", include_in_schema=False)
    turn, waiting = asyncio.Lock(), 0

    async def in_turn(http: Request, work: Callable[[], bytes]) -> Response:
        if await http.is_disconnected():  # the page asked for something else meanwhile
            return Response(status_code=499)
        return Response(await asyncio.to_thread(work), media_type="application/json")

    @router.post("/look")
    async def look(body: LookBody, http: Request) -> Response:
        nonlocal waiting
        if models.draining:
            raise HTTPException(503, ENDING, {"Retry-After": "1"})
        if waiting > MOST_WAITING:
            raise HTTPException(429, "too many are looking inside, try again soon", {"Retry-After": "2"})
        entry = await models.find(body.model)
        waiting += 1
        try:
            async with turn, models.use(entry) as loaded:
                return await in_turn(http, lambda: _looked(loaded.engine, body, defaults.max_tokens))
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        except MemoryError:
            raise HTTPException(503, "there is no memory for that now", {"Retry-After": "5"}) from None
        finally:
            waiting -= 1

    return router


def _looked(engine: Engine, body: LookBody, max_tokens: int) -> bytes:
    """One pass beside the answers that the engine makes; it reads the weights and nothing else of it."""
    prompt = asked(engine, body, engine.window, body.max_tokens or max_tokens).ids
    if len(prompt) + len(body.ids) > engine.window > len(body.ids):  # an answer that was gone on with: see prompt_of
        prompt = asked(engine, body, engine.window - len(body.ids), body.max_tokens or max_tokens).ids
    token = None if body.token is None else len(prompt) + body.token
    found = look_inside(engine.model, engine.tokenizer, [*prompt, *body.ids], token)
    # Ids from there on are of special tokens, which nobody may choose.
    facts = {"offset": len(prompt), "special_from": len(engine.tokenizer.ranks)}
    return json.dumps({**facts, **found.to_dict()}).encode()
