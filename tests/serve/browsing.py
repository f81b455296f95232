"""Pages of a browser that tests look at, and at which they notice what no test asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


# Most tests run on both; in every run on the phone, where things are more likely to lie in each other's way.
BOTH: list[Any] = [
    pytest.param((1000, 760), id="desktop", marks=pytest.mark.slow),
    pytest.param((390, 760), id="phone"),
]


SAID: WeakKeyDictionary[Page, list[str]] = WeakKeyDictionary()  # what the browser and its servers said, by page


def seen(page: Page) -> str:
    """What stands on a page, and what was said on the way there: for the report of a test that failed."""
    try:
        page.set_default_timeout(3000)
        shown = page.locator("body").inner_text()
    except Exception as error:
        shown = f"(cannot be read: {error})"
    return "\n".join([page.url, shown, *SAID.get(page, [])[-40:]])


@contextmanager
def looked_at(browser: Browser, size: tuple[int, int], *expected: str, **settings: Any) -> Iterator[Page]:
    """A page on which no script may fail, no dialog may open and nothing may be wider than it.

    expected: words of the browser's own errors that are no fault, such as of requests that shall fail. The service
    worker, which comes 1.5 s after the page, has tests of its own: here its server may be gone by then.
    """
    width, height = size
    settings.setdefault("service_workers", "block")
    context = browser.new_context(viewport={"width": width, "height": height}, **settings)
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    heard: list[str] = SAID.setdefault(page, [])
    page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
    page.on("requestfailed", lambda request: heard.append(f"{request.url}: {request.failure}"))
    page.on("response", lambda answer: answer.ok or heard.append(f"{answer.url}: {answer.status}"))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
    yield page
    page.unroute_all(behavior="ignoreErrors")  # of a request that is just under way
    wide = page.evaluate("document.documentElement.scrollWidth")
    context.close()
    problems = [problem for problem in problems if not any(words in problem for words in expected)]
    assert not problems, problems  # said here: pytest explains no assertion of this file
    assert wide <= width, f"{wide} pixels wide, on a screen of {width}"


def named(page: Page, model: str) -> None:
    """The page has heard from its server which model answers."""
    page.wait_for_function("model => document.getElementById('model').innerText.includes(model)", arg=model)


def send(page: Page, text: str) -> None:
    """Write a message and send it by Enter, once the page can send one: it has started, and no answer is on its way."""
    page.get_by_label("Message", exact=True).fill(text)
    page.wait_for_function("() => (({ hidden, disabled }) => !hidden && !disabled)(document.getElementById('send'))")
    page.keyboard.press("Enter")
