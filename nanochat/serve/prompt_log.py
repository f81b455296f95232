"""Prompts on stderr, a JSON line for each, when the person who runs the server asks for that."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.console import warn


class PromptLog:
    """ASGI middleware: what is posted by those who were let in. Stands inside the limit on bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] == "/login":  # which holds a key
            await self.app(scope, receive, send)
            return
        came: list[bytes] = []
        over = False

        async def kept() -> Message:
            nonlocal over
            message = await receive()
            if message["type"] == "http.request" and not over:
                came.append(message.get("body", b""))
                over = not message.get("more_body", False)
                if over:
                    _log(scope, b"".join(came))
                    came.clear()
            return message

        await self.app(scope, kept, send)


def _log(scope: Scope, body: bytes) -> None:
    line: dict[str, Any] = {
        "time": round(time.time(), 3),
        "client": (scope.get("client") or [""])[0],
        "path": scope["path"],
    }
    try:
        text = json.dumps({**line, "asked": json.loads(body)})
    except (ValueError, RecursionError):
        text = json.dumps({**line, "asked": body.decode(errors="replace")})
    warn(text.replace("\x7f", "\\u007f"))  # now nothing in it can steer a terminal
