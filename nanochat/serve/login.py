"""/login: where a browser shows the key, in a link or by hand, and gets a cookie in its place."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from nanochat.serve.access import Access, header

PAGE = (Path(__file__).parent / "static" / "login.html").read_text(encoding="utf-8")
WRONG_PAGE = PAGE.replace('id="wrong" hidden', 'id="wrong" role="alert"')
STYLE = PAGE.partition("<style>")[2].partition("</style>")[0]
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    # With no-referrer, browsers would name no origin when the form is sent, and it would look like another site's.
    "Referrer-Policy": "same-origin",
}
MONTH = 30 * 86400  # seconds that a browser stays logged in


def routes(access: Access) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.api_route("/login", methods=["GET", "HEAD"])
    async def by_link(request: Request) -> Response:
        if request.scope["known"]:
            return RedirectResponse("/", 303)
        query = request.scope["query_string"]
        return _answer(access, request, query) if query else HTMLResponse(PAGE, headers=HEADERS)

    @router.post("/login")
    async def by_hand(request: Request) -> Response:
        return _answer(access, request, await request.body())

    return router


def _answer(access: Access, request: Request, fields: bytes) -> Response:
    """fields: as a form or a query encodes them."""
    if not access.is_key(_key_in(fields)):
        return HTMLResponse(WRONG_PAGE, 401, headers=HEADERS)
    answer = RedirectResponse("/", 303)
    proxied = header(request.scope, b"x-forwarded-proto").partition(b",")[0].strip().lower() == b"https"
    cookie = f"{access.cookie_name}={access.cookie_value}; HttpOnly; Max-Age={MONTH}; Path=/; SameSite=Lax"
    answer.headers["Set-Cookie"] = cookie + "; Secure" * (proxied or request.scope["scheme"] == "https")
    return answer


def _key_in(fields: bytes) -> bytes:
    try:
        found = parse_qs(fields.decode("ascii"), max_num_fields=8, errors="strict")
    except ValueError:
        return b""
    return found.get("key", [""])[0].strip().encode()
