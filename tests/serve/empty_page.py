"""An empty page of the server, in which the modules of the chat page can be tried one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from nanochat.serve.access import PAGE_HEADERS

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHECKS = """
const check = (right, what) => { if (!right) throw new Error(what); };
const stable = (value) => JSON.stringify(value, (key, one) =>
  one && typeof one === "object" && !Array.isArray(one)
    ? Object.fromEntries(Object.entries(one).sort(([a], [b]) => (a < b ? -1 : 1))) : one);
const same = (a, b, what) => check(stable(a) === stable(b), `${what}: ${stable(a)} is not ${stable(b)}`);
"""


def with_empty_page(app: FastAPI, body: str = "") -> FastAPI:
    """The app, with a page at /empty whose policy is the real pages'."""
    page = f'<!doctype html><meta name="viewport" content="width=device-width"><title>empty</title>{body}'
    app.add_api_route("/empty", lambda: HTMLResponse(page, headers=PAGE_HEADERS))
    return app


def run(page: Page, script: str, argument: Any = None) -> Any:
    """What a script returns that may use `check`, `same`, and `argument`."""
    return page.evaluate(f"async (argument) => {{ {CHECKS} {script} }}", argument)
