"""How the page's routes read a body."""

from __future__ import annotations

from fastapi import HTTPException, Response

from nanochat.serve.openai_errors import ApiError
from nanochat.serve.openai_route import StrictRoute


class PageRoute(StrictRoute):
    """As strictly as the OpenAI API, and a large one beside the event loop. Errors are {"detail": ...}."""

    def refused(self, error: Exception) -> Response:
        if isinstance(error, ApiError):
            raise HTTPException(422 if error.status_code == 400 else error.status_code, error.detail) from None
        raise error
