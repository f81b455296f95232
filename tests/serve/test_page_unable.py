"""Browsers that cannot run the pages' scripts: they say so, where an empty page would say nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.serve import Access, ModelInfo, create_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Served = Callable[[FastAPI], str]
WORDS = "your browser cannot run it: JavaScript must be allowed"
# The animation that hides the words is stopped in its first frame, however long a busy machine then takes to look.
STOPPED = """addEventListener("animationstart", ({ target }) => {
  if (target.id !== "starting") return;
  target.getAnimations()[0].pause();
  window.stopped = true;
});"""


@pytest.fixture
def app(scripted: Any, info: ModelInfo) -> FastAPI:
    return create_app(scripted(lambda request: []), info, access=Access("key"))


def logged_in(page: Page, address: str) -> Page:
    page.goto(address)
    page.get_by_label("The key of this server").fill("key")
    page.get_by_role("button", name="Log in").click()
    return page


@pytest.mark.parametrize("motion", ["no-preference", pytest.param("reduce", marks=pytest.mark.slow)])
def test_without_scripts(browser: Browser, app: FastAPI, served: Served, motion: Any) -> None:
    """The login needs none."""
    context = browser.new_context(java_script_enabled=False, reduced_motion=motion)
    page, address = context.new_page(), served(app)
    logged_in(page, address).get_by_text(WORDS).wait_for()
    page.goto(f"{address}/train")
    page.get_by_text(WORDS).wait_for()
    context.close()


@pytest.mark.parametrize("path", ["/", pytest.param("/train", marks=pytest.mark.slow)])
def test_an_old_browser(browser: Browser, app: FastAPI, served: Served, path: str) -> None:
    """What it does not know ends the script as it starts."""
    context = browser.new_context(service_workers="block")
    page, address, problems = context.new_page(), served(app), list[str]()
    page.on("pageerror", lambda error: problems.append(str(error)))
    logged_in(page, address)
    page.locator("#starting").wait_for(state="detached")  # this browser knows all
    page.add_init_script("delete globalThis.matchMedia; delete globalThis.URLSearchParams")
    page.goto(address + path)
    page.get_by_text(WORDS).wait_for()
    assert problems and "is not" in problems[0]
    context.close()


@pytest.mark.parametrize("path", ["/", "/train"])
@pytest.mark.parametrize("motion", ["no-preference", pytest.param("reduce", marks=pytest.mark.slow)])
def test_a_browser_that_is_able(browser: Browser, app: FastAPI, served: Served, path: str, motion: Any) -> None:
    """The words are never seen, and gone when the page works."""
    context = browser.new_context(service_workers="block", reduced_motion=motion)
    page, address, held = context.new_page(), served(app), list[Any]()
    logged_in(page, address)
    page.route("**/main.js", lambda route: held.append(route))
    page.add_init_script(STOPPED)
    page.goto(address + path, wait_until="commit")
    page.wait_for_function("() => window.stopped")
    assert not page.locator("#starting").is_visible()
    while not held:
        page.wait_for_timeout(20)
    held[0].continue_()
    page.locator("#starting").wait_for(state="detached")
    context.close()
