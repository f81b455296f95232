"""Refusing bodies that are larger than any legal request, before they fill the memory."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve import openai_bodies, schema
from nanochat.serve.openai_errors import is_openai, openai_error


class BodyLimit:
    """ASGI middleware: 413 when the announced or the received length is above what the API of the path takes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        openai = is_openai(scope["path"])
        limit = openai_bodies.MAX_BODY_BYTES if openai else schema.MAX_BODY_BYTES
        problem = f"the body is larger than {limit} bytes"
        refusal = openai_error(413, problem) if openai else JSONResponse({"detail": problem}, status_code=413)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > limit:
            await refusal(scope, receive, send)
            return
        came = 0
        refused = False

        async def counted() -> Message:
            nonlocal came, refused
            message = await receive()
            came += len(message.get("body", b""))
            if came > limit:
                if not refused:
                    refused = True
                    await refusal(scope, receive, send)
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        await self.app(scope, counted, unless_refused)
