"""How the page's routes read a body."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from nanochat.serve.openai_errors import ApiError
from nanochat.serve.openai_route import StrictRequest


class PageRoute(APIRoute):
    """As strictly as the OpenAI API, and a large one beside the event loop. Errors are {"detail": ...}."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        body_type = self.body_field and self.body_field.field_info.annotation

        async def handle(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            strict.body_type = body_type  # type: ignore[assignment]
            try:
                return await handler(strict)
            except ApiError as error:
                raise HTTPException(422 if error.status_code == 400 else error.status_code, error.detail) from None

        return handle
