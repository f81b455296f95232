"""/page/look: how likely each token of an answer was, and what the layers had at one of them (docs/looking.md)."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import Field

from nanochat.console import UserError
from nanochat.inference import Engine
from nanochat.inference.looking import look_inside
from nanochat.serve.info import Defaults
from nanochat.serve.page.bodies import Asked, Ids
from nanochat.serve.page.models import ENDING, Models
from nanochat.serve.page.prompts import asked
from nanochat.serve.page.route import PageRoute

MOST_WAITING = 8  # looks that wait for the one that is taken
DEPTHS = {"tokens": 1, "chosen": 4}  # to a token; to a row of a head


class LookBody(Asked):
    """ids: of the answer. token: which of them is explained, by its place among them; len(ids): the one to come; null:
    the last. max_tokens: the longest answer that was asked for, by which the start of a long conversation was left out.
    """

    ids: Ids = Field(default_factory=list)
    token: Annotated[int, Field(ge=0)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None


def routes(models: Models, defaults: Defaults) -> APIRouter:
    router = APIRouter(prefix="/page", include_in_schema=False, route_class=PageRoute)
    turn, waiting = asyncio.Lock(), 0

    async def in_turn(http: Request, body: LookBody) -> Response:
        async with turn:
            if await http.is_disconnected():  # the page asked for something else meanwhile: no model is loaded for this
                return Response(status_code=499)
            async with models.use(await models.find(body.model)) as loaded:
                found = await asyncio.to_thread(_looked, loaded.engine, body, defaults.max_tokens)
                return Response(found, media_type="application/json")

    @router.post("/look")
    async def look(body: LookBody, http: Request) -> Response:
        nonlocal waiting
        if models.draining:
            raise HTTPException(503, ENDING, {"Retry-After": "1"})
        if waiting > MOST_WAITING:
            raise HTTPException(429, "too many are looking inside, try again soon", {"Retry-After": "2"})
        waiting += 1
        try:
            return await in_turn(http, body)
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
    told = {**facts, **found.to_dict()}
    # In pieces: one call for megabytes would hold up all other threads, so that nobody got a token.
    pieces = (f"{json.dumps(key)}: {_json(value, DEPTHS.get(key, 0))}" for key, value in told.items())
    return f"{{{', '.join(pieces)}}}".encode()


def _json(value: Any, depth: int) -> str:
    """As json.dumps, with a call for each value so many levels down."""
    if depth and isinstance(value, dict):
        pieces = (f"{json.dumps(key)}: {_json(inner, depth - 1)}" for key, inner in value.items())
        return f"{{{', '.join(pieces)}}}"
    if depth and isinstance(value, list):
        return f"[{', '.join([_json(inner, depth - 1) for inner in value])}]"
    return json.dumps(value)
