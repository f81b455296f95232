"""What stays in sight while an answer grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.serve import ModelInfo, create_app
from tests.serve import empty_page
from tests.serve.empty_page import with_empty_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

BODY = """
<link rel="stylesheet" href="/static/style.css"><link rel="stylesheet" href="/static/chat/scrolling.css">
<main id="scroller" tabindex="-1"><div id="content"></div></main>
"""
BEGIN = """
const scroller = document.getElementById("scroller");
const content = document.getElementById("content");
const line = (text) => Object.assign(document.createElement("p"), { textContent: text });
const frames = async () => { for (let n = 0; n < 3; n++) await new Promise(requestAnimationFrame); };
const grow = async (lines = 5) => {
  for (let n = 0; n < lines; n++) content.append(line(`line ${content.children.length}`));
  await frames();
};
const room = () => scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop;
"""
ROOM = "scroller.scrollHeight - scroller.clientHeight - scroller.scrollTop"  # elements have their ids as names, too


@pytest.fixture
def page(browser: Browser, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> Iterator[Page]:
    """A page with a text of a few screens that is at its end."""
    context = browser.new_context(viewport={"width": 600, "height": 400}, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.goto(f"{served(with_empty_page(create_app(scripted(lambda request: []), info), BODY))}/empty")
    start = """
    scroller.style.height = "400px";
    scroller.style.overflowY = "auto";
    const { createScrolling } = await import("/static/chat/scrolling.js");
    createScrolling(scroller, content);
    await grow(60);
    same(room() < 2, true, "at the end");
    """
    run(page, start)
    yield page
    context.close()


def run(page: Page, script: str) -> Any:
    return empty_page.run(page, BEGIN + script)


def is_at_end(page: Page) -> bool:
    """After the text has grown."""
    return bool(run(page, "await grow(); return room() < 2;"))


def wait_until_up(page: Page) -> None:
    page.wait_for_function(f"() => {ROOM} > 60")


def test_it_stays_at_the_end(page: Page) -> None:
    assert is_at_end(page) and is_at_end(page)
    assert page.get_by_role("button", name="Go to the end").is_hidden()
    run(page, "while (content.children.length > 30) content.lastChild.remove(); await frames();")
    assert is_at_end(page)  # also after it was shorter for a moment


def by_wheel(page: Page) -> None:
    page.mouse.move(300, 200)
    page.mouse.wheel(0, -200)


def by_small_turns(page: Page) -> None:
    page.mouse.move(300, 200)
    for _ in range(30):
        page.mouse.wheel(0, -4)
        run(page, "content.append(line('while it moves')); await frames();")


def by_keys(page: Page) -> None:
    page.locator("#scroller").focus()
    page.keyboard.press("PageUp")


def by_the_scrollbar(page: Page) -> None:
    run(page, "scroller.scrollTop -= 300; await frames();")  # what a browser does for it


def by_touch(page: Page) -> None:
    finger = page.context.new_cdp_session(page)
    for y in range(100, 340, 20):
        kind = "touchStart" if y == 100 else "touchMove"
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": 300, "y": y}]})
        run(page, "content.append(line('while it moves')); await frames();")
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.parametrize(
    "go",
    [
        by_wheel,
        by_keys,
        by_touch,
        *(pytest.param(go, marks=pytest.mark.slow) for go in (by_small_turns, by_the_scrollbar)),
    ],
)
def test_who_goes_up_stays_there(go: Callable[[Page], None], page: Page) -> None:
    go(page)
    wait_until_up(page)
    # A smooth scroll may still be under way: it ends where it was going to.
    page.wait_for_function(
        """async () => { const before = scroller.scrollTop;
        for (let n = 0; n < 25; n++) await new Promise(requestAnimationFrame);
        return scroller.scrollTop === before; }"""
    )
    before = run(page, "return scroller.scrollTop;")
    assert not is_at_end(page)
    assert run(page, "return scroller.scrollTop;") == before
    down = page.get_by_role("button", name="Go to the end")
    assert down.is_visible()
    down.click()
    assert is_at_end(page) and down.is_hidden()


def test_coming_back_to_the_end_is_enough(page: Page) -> None:
    by_wheel(page)
    wait_until_up(page)
    page.mouse.wheel(0, 4000)
    page.wait_for_function(f"() => {ROOM} < 2")
    assert is_at_end(page)


def test_the_keyboard_reaches_the_button_and_goes_on_from_the_end(page: Page) -> None:
    by_keys(page)
    wait_until_up(page)
    page.get_by_role("button", name="Go to the end").focus()
    page.keyboard.press("Enter")
    assert is_at_end(page)
    assert page.evaluate("document.activeElement.id") == "scroller"


def test_what_is_selected_stays_under_the_pointer(page: Page) -> None:
    box = page.locator("#content p").last.bounding_box()
    assert box
    page.mouse.move(box["x"] + 2, box["y"] + 10)
    page.mouse.down()
    before = run(page, "return scroller.scrollTop;")
    assert not is_at_end(page)  # while a button is down
    page.mouse.move(box["x"] + 40, box["y"] + 10)
    page.mouse.up()
    assert page.evaluate("getSelection().toString()") != ""
    assert not is_at_end(page) and run(page, "return scroller.scrollTop;") == before
    run(page, "getSelection().removeAllRanges(); await frames();")
    assert is_at_end(page)


def test_what_grows_above_does_not_move_what_one_reads(page: Page) -> None:
    by_the_scrollbar(page)
    place = "return content.children[52].getBoundingClientRect().top;"
    before = run(page, place)
    run(page, "for (let n = 0; n < 9; n++) content.children[3].append(line('more')); await frames();")
    assert abs(run(page, place) - before) <= 1
