"""What all routes of the OpenAI API have in common: strict JSON in, errors in its form out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from nanochat.reading import parse_json
from nanochat.serve.openai_errors import ApiError, ErrorReply, answer_to

AT_ONCE = 1 << 14  # bytes, or characters: less is read and encoded without leaving the event loop

# For the description of the API. (4XX also keeps FastAPI from listing its 422, which is never sent.)
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The request is at fault; `param` says where"},
    408: {"model": ErrorReply, "description": "The body, or the answer, took too long"},
    413: {"model": ErrorReply, "description": "The body is too large"},
    429: {"model": ErrorReply, "description": "Too many requests are waiting; see the header Retry-After"},
    "4XX": {"model": ErrorReply, "description": "The request cannot be answered"},
    500: {"model": ErrorReply, "description": "A fault of the server"},
    503: {"model": ErrorReply, "description": "The server is ending"},
}


class StrictRequest(Request):
    """Its JSON has no key twice, no NaN, no endless numbers or nesting."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            if len(body) <= AT_ONCE:
                return parse_json(body.decode())
            return await asyncio.to_thread(lambda: parse_json(body.decode()))
        except ValueError as error:
            raise ApiError(f"the body is no valid JSON: {error}") from None


class OpenAIRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(StrictRequest(request.scope, request.receive))
            except Exception as error:
                return answer_to(error)

        return handle


def reply(body: BaseModel) -> Response:
    """What was set of a body as JSON: an absent value of an answer is null where it was set to None."""
    return Response(body.model_dump_json(exclude_unset=True), media_type="application/json")


def event(body: BaseModel) -> str:
    """Likewise, as an event of a stream."""
    return f"data: {body.model_dump_json(exclude_unset=True)}\n\n"


DONE = "data: [DONE]\n\n"
