"""What all routes of the OpenAI API have in common: strict JSON in, errors in its form out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from nanochat.reading import parse_json
from nanochat.serve.openai_errors import ApiError, ErrorReply, answer_to, param_of
from nanochat.serve.schema import explain

AT_ONCE = 1 << 14  # bytes, or characters: less is read and encoded without leaving the event loop
# Lists and objects cost far more than what is in them, and nobody else gets on while a body is taken apart.
MAX_BRACKETS = 20_000
NO_MARKS = bytes(set(range(256)) - set(b'"[{'))
A_LOGPROB = 10  # characters that take as long as telling of one likely token

# Few, since they are in each other's way, and the largest answers take 60 MB while they are written.
ASIDE = ThreadPoolExecutor(2, "aside")

T = TypeVar("T")

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
    """Its JSON has no key twice, no NaN, no endless numbers or nesting. `json` gives the body, checked."""

    body_type: type[BaseModel]

    async def json(self) -> Any:
        if (encoding := self.headers.get("content-encoding", "identity").lower()) != "identity":
            raise ApiError(f"the body should come as it is, not in the encoding {encoding!a:.40}", status=415)
        body = await self.body()
        return await aside(len(body), lambda: _checked(body, self.body_type))


async def aside(characters: int, work: Callable[[], T]) -> T:
    """The result of work on so many characters: in a thread if there are many, so that nobody else waits for it."""
    return work() if characters <= AT_ONCE else await asyncio.get_running_loop().run_in_executor(ASIDE, work)


def _checked(body: bytes, body_type: type[BaseModel]) -> BaseModel:
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS and brackets(body) > MAX_BRACKETS:
        raise ApiError(f"the body holds more than {MAX_BRACKETS} lists and objects")
    try:
        return body_type.model_validate(parse_json(body.decode("utf-8-sig")))  # some programs begin with a mark
    except UnicodeDecodeError:
        raise ApiError("the body is no valid JSON: it is not UTF-8") from None
    except ValidationError as error:
        raise ApiError(explain(list(error.errors())), param_of(list(error.errors()))) from None
    except ValueError as error:
        raise ApiError(f"the body is no valid JSON: {error}") from None


def brackets(body: bytes) -> int:
    """How many lists and objects begin in a text of JSON: those in strings are none."""
    # All in C: what is escaped goes first, so that each quote begins or ends a string, and then all but these marks.
    marks = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, NO_MARKS).replace(b'""', b"")
    return sum(map(len, marks.split(b'"')[::2]))


class StrictRoute(APIRoute):
    """Gives handlers a StrictRequest. `refused` says what is answered where they, or the body, fail."""

    def refused(self, error: Exception) -> Response:
        raise NotImplementedError

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        body_type = self.body_field and self.body_field.field_info.annotation

        async def handle(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            strict.body_type = body_type  # type: ignore[assignment]  # routes without a body never read one
            try:
                return await handler(strict)
            except Exception as error:
                return self.refused(error)

        return handle


class OpenAIRoute(StrictRoute):
    def refused(self, error: Exception) -> Response:
        return answer_to(error)


def reply(body: BaseModel) -> Response:
    """What was set of a body as JSON: an absent value of an answer is null where it was set to None."""
    return Response(body.model_dump_json(exclude_unset=True), media_type="application/json")


def event(body: BaseModel) -> str:
    """Likewise, as an event of a stream."""
    return f"data: {body.model_dump_json(exclude_unset=True)}\n\n"


DONE = "data: [DONE]\n\n"
