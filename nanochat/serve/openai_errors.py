"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from nanochat.console import UserError
from nanochat.serve.answers import Busy, Draining, OutOfTime
from nanochat.serve.schema import deepest

TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}
CLIENT_GONE = 499  # never sent; nginx's number, for logs and counts

logger = logging.getLogger(__name__)


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every answer that is no success. `param` names the parameter that is at fault."""

    error: ErrorBody


class ApiError(HTTPException):
    """The request cannot be answered: what is wrong, and with which parameter."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(status, message)
        self.param, self.code = param, code


def is_openai(path: str) -> bool:
    """Whether clients of this path read errors in this form."""
    return path == "/v1" or path.startswith("/v1/")


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> str:
    """As JSON in ASCII, since what is told of a bad request may be no valid text."""
    error = {"message": message, "type": TYPES.get(status, "invalid_request_error"), "param": param, "code": code}
    return json.dumps({"error": error})


def openai_error(
    status: int,
    message: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    return Response(error_body(status, message, param, code), status, headers, "application/json")


def answer_to(error: BaseException) -> Response:
    status, message, param, code, headers = error_of(error)
    return openai_error(status, message, param, code, headers)


def error_of(error: BaseException) -> tuple[int, str, str | None, str | None, dict[str, str]]:
    """What to say of an exception: status, message, param, code, headers. Faults of ours are logged."""
    match error:
        case ApiError():
            return error.status_code, str(error.detail), error.param, error.code, {}
        case UserError():
            return 400, str(error), None, None, {}
        case RequestValidationError():
            # Ours are checked in openai_route.py; FastAPI itself looks for a body of this type.
            return 400, "the body should be JSON, with the header Content-Type: application/json", None, None, {}
        case HTTPException():
            return error.status_code, str(error.detail), None, None, dict(error.headers or {})
        case Busy():
            again = {"Retry-After": str(error.retry_after)}
            return 429, "too many requests are waiting, try again later", None, "rate_limit_exceeded", again
        case Draining():
            return 503, "the server is ending", None, "server_ending", {"Retry-After": str(error.retry_after)}
        case OutOfTime():
            # Clients of OpenAI would ask the same again, and wait as long again.
            return 408, "the answer took too long", None, "timeout", {"x-should-retry": "false"}
        case ClientDisconnect():
            return CLIENT_GONE, "the client has gone", None, None, {}
    logger.error("an answer failed", exc_info=error)
    return 500, "the answer failed, see the server's log", None, None, {}


def param_of(errors: list[Any]) -> str | None:
    """The parameter that the error is about which `explain` tells."""
    return next(iter(deepest(errors)["loc"]), None)
