"""Who may ask this server: those with the key, by a name that is ours, and never another website's page."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass, field
from functools import cached_property

from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve.openai_errors import is_openai, openai_error

OPEN = ("/login", "/health")  # what a stranger may ask, if there is a key
HOST = re.compile(r"(?:localhost|(?P<number>[0-9.]+|\[[0-9a-f:.]*:[0-9a-f:.]*\]))(?::[0-9]{1,5})?", re.IGNORECASE)
# Of every answer that does not say otherwise. A page has a policy of its own.
HEADERS = {
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}
# Of a page: it runs its own files and nothing else, whatever a model, a user or a run is called or writes into it.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Access:
    """What it takes to be let in."""

    key: str = field(default="", repr=False)
    """Needed by whoever asks; "" lets everybody in who reaches the server."""
    loopback: bool = True
    """The server listens to its own machine alone, so that a request for any other name comes from a website whose
    name was made to point here (DNS rebinding)."""

    def is_key(self, given: bytes) -> bool:
        """Whether this is the key. Takes as long for any wrong one of the same length."""
        return bool(self.key) and hmac.compare_digest(_digest(given), _digest(self.key.encode()))

    @cached_property
    def cookie_name(self) -> str:
        """Of this key's own, since a browser sends a host's cookies to all its ports."""
        return f"nanochat_{self._derived(b'cookie name')[:8]}"

    @cached_property
    def cookie_value(self) -> str:
        """What a browser shows in the key's place. The key cannot be found from it."""
        return self._derived(b"cookie value")

    def _derived(self, what: bytes) -> str:
        return hmac.new(self.key.encode(), b"nanochat " + what, hashlib.sha256).hexdigest()

    def has_bearer(self, scope: Scope) -> bool:
        scheme, _, given = header(scope, b"authorization").strip().partition(b" ")
        return scheme.lower() == b"bearer" and self.is_key(given.strip())

    def has_cookie(self, scope: Scope) -> bool:
        name, value = self.cookie_name.encode(), self.cookie_value.encode()
        pairs = (pair.strip().partition(b"=") for pair in header(scope, b"cookie", b";").split(b";"))
        given = (pair[2] for pair in pairs if pair[0] == name)
        return bool(self.key) and any(hmac.compare_digest(_digest(one), _digest(value)) for one in given)

    def is_called_right(self, scope: Scope) -> bool:
        """Whether the request is for a name that this server may have."""
        return not self.loopback or _is_local(header(scope, b"host").decode("latin-1"))


def header(scope: Scope, name: bytes, between: bytes = b",") -> bytes:
    """A header's value; of several with this name, all, joined. b"" when it is absent."""
    return between.join(value for key, value in scope["headers"] if key == name)


def from_another_site(scope: Scope) -> bool:
    """Whether a browser asks for a page of another website. To open a page of ours from there is allowed."""
    if site := header(scope, b"sec-fetch-site").lower():
        opens = (
            scope["method"] in ("GET", "HEAD")
            and header(scope, b"sec-fetch-mode").lower() == b"navigate"
            and header(scope, b"sec-fetch-dest").lower() == b"document"
        )
        return site not in (b"same-origin", b"none") and not opens
    if not any(name == b"origin" for name, _ in scope["headers"]):
        return False  # no browser, or an old one that only fetches
    host = header(scope, b"origin").lower().partition(b"://")[2]
    # No other site's page can set the second without asking first, which is refused.
    return not host or host not in (header(scope, b"host").lower(), header(scope, b"x-forwarded-host").lower())


class Guard:
    """ASGI middleware, outside of all else: refuses what `access` does not allow, and adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no part of the server speaks WebSocket
            await send({"type": "websocket.close", "code": 1008})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                message = {**message, "headers": given + [pair for pair in HEADERS.items() if pair[0] not in names]}
            await send(message)

        refused = self._refusal(scope)
        await (refused or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """None: let in. Sets scope["known"]: whether the key, if there is one, was shown."""
        access, path = self.access, scope["path"]
        if not access.is_called_right(scope):
            return refusal(path, 403, "this server does not answer for that host name", "unknown_host")
        bearer = access.has_bearer(scope)
        if from_another_site(scope) and not bearer:
            return refusal(path, 403, "pages of other websites may not use this server", "cross_site")
        scope["known"] = not access.key or bearer or access.has_cookie(scope)
        if scope["known"] or path in OPEN:
            return None
        if path == "/" and b"text/html" in header(scope, b"accept"):
            return RedirectResponse("/login", 303)
        answer = refusal(path, 401, "the API key is missing or wrong (Authorization: Bearer KEY)", "invalid_api_key")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer


def refusal(path: str, status: int, message: str, code: str) -> Response:
    """An answer in the format of the API that was asked: OpenAI's under /v1, else {"detail": ...}."""
    return openai_error(status, message, None, code) if is_openai(path) else JSONResponse({"detail": message}, status)


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine. A number is not looked up, so it cannot be made to point here."""
    found = HOST.fullmatch(host)
    try:
        return found is not None and (
            not found["number"] or ipaddress.ip_address(found["number"].strip("[]")).is_loopback
        )
    except ValueError:
        return False


def _digest(text: bytes) -> bytes:
    """Of equal length for all texts, so that comparing tells nothing about the length."""
    return hashlib.sha256(text).digest()
