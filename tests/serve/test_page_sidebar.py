"""The conversations at the side of the chat page, in a real browser: with mouse and keyboard, wide and at 390 px."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Token
from nanochat.serve import ModelInfo, create_app
from tests.serve.axe import Axe, axe
from tests.serve.browsing import send
from tests.serve.empty_page import run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

__all__ = ["axe"]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> \u202e\U0001f642"
DAY = 86_400_000
FILL = """
const { openDatabase } = await import("/static/chat/database.js");
const tree = await import("/static/chat/tree.js");
const database = await openDatabase(() => {});
for (const [title, ago, ...texts] of argument) {
  let c = tree.newConversation();
  for (const [n, text] of texts.entries()) {
    const role = n % 2 ? "assistant" : "user";
    const parts = [{ type: "text", text }];
    const node = { id: tree.newId(), parent: c.leaf, role, parts, time: Date.now() - ago + n };
    c = tree.withLeaf(tree.withNode(c, node), node.id);
  }
  await database.put(tree.withTitle({ ...c, created: c.created - ago }, title));
}
"""


@pytest.fixture
def address(scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> str:
    return served(create_app(scripted(lambda request: [Token(0, "So it is.", "text", 0)]), info))


@pytest.fixture(params=[pytest.param(1000, marks=pytest.mark.slow), 390])
def page(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": request.param, "height": 760}, accept_downloads=True)
    yield opened(context, address)
    context.close()


@pytest.fixture
def wide(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1000, "height": 760}, accept_downloads=True)
    yield opened(context, address)
    context.close()


def opened(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.goto(address)
    page.get_by_text("sft/d2").first.wait_for(state="attached")
    return page


def filled(page: Page, *conversations: tuple[Any, ...]) -> Locator:
    """The sidebar, after these were kept: (title, ms ago, texts...)."""
    run(page, FILL, conversations)
    page.reload()
    sidebar = page.locator("#sidebar")
    sidebar.locator("li").first.wait_for(state="attached")
    opener = page.locator("#sidebar-open")
    if opener.is_visible():
        opener.click()
    return sidebar


def titles(sidebar: Locator) -> list[str]:
    return sidebar.locator("li a").all_inner_texts()


THREE = [("Old", 40 * DAY, "hi", "old words"), ("Before", 0, "hi", "a word"), ("Last", -1000, "hi", "words")]


def test_by_day_and_open(page: Page) -> None:
    sidebar = filled(page, ("Yesterday's", DAY, "b", "one"), *THREE, (HOSTILE, 2 * DAY, "hostile", "x"))
    midnight = time.localtime().tm_hour < 1  # the day may change while this runs
    assert titles(sidebar) == ["Last", "Before", "Yesterday's", HOSTILE, "Old"]
    if not midnight:
        assert sidebar.locator("h3").all_inner_texts() == ["Today", "Yesterday", "Earlier"]
    sidebar.get_by_role("link", name="Yesterday's").click()
    page.locator(".message").get_by_text("one", exact=True).wait_for()
    assert sidebar.locator("[aria-current]").text_content() == "Yesterday's"
    if page.locator("#sidebar-open").is_visible():
        sidebar.locator("li").first.wait_for(state="hidden")  # the drawer has closed
        assert page.locator("#sidebar-open").get_attribute("aria-expanded") == "false"
        page.locator("#sidebar-open").click()
    sidebar.get_by_role("link", name="<img").click()
    page.locator(".message").get_by_text("hostile").wait_for()
    assert page.title() == "nanochat" and page.locator("img[src=x]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]


def test_renaming_in_place(page: Page) -> None:
    sidebar = filled(page, *THREE)
    sidebar.get_by_role("link", name="Before").focus()
    page.keyboard.press("F2")
    name = sidebar.get_by_label("New name of Before")
    name.fill(HOSTILE)
    page.keyboard.press("Enter")
    sidebar.get_by_role("link", name="<img").wait_for()
    assert titles(sidebar) == ["Last", HOSTILE, "Old"]  # a name makes it no newer
    assert page.evaluate("document.activeElement.textContent") == HOSTILE
    page.keyboard.press("F2")
    sidebar.locator("li input").fill("not this")
    page.keyboard.press("Escape")
    assert titles(sidebar) == ["Last", HOSTILE, "Old"]
    sidebar.get_by_role("button", name="Rename Old").click()
    sidebar.locator("li input").fill(" ")
    page.keyboard.press("Enter")
    sidebar.get_by_role("link", name="hi").wait_for()  # its first words again
    page.reload()
    sidebar.locator("li").first.wait_for(state="attached")
    assert sidebar.locator("li a").all_text_contents() == ["Last", HOSTILE, "hi"]


def test_deleted_and_brought_back(page: Page) -> None:
    sidebar = filled(page, *THREE)
    sidebar.get_by_role("link", name="Before").focus()
    page.keyboard.press("Delete")
    sidebar.get_by_text("Deleted “Before”.").wait_for()
    assert titles(sidebar) == ["Last", "Old"]
    assert page.evaluate("document.activeElement.textContent") == "Old"
    sidebar.get_by_role("button", name="Undo").click()
    sidebar.get_by_role("link", name="Before").wait_for()
    assert titles(sidebar) == ["Last", "Before", "Old"]
    for title in ("Last", "Before", "Old"):
        sidebar.get_by_role("button", name=f"Delete {title}").click()
        sidebar.get_by_text(f"Deleted “{title}”.").wait_for()
    sidebar.get_by_text("Conversations will be listed here.").wait_for()
    sidebar.get_by_role("button", name="Undo").click()
    sidebar.get_by_role("link", name="Old").wait_for()  # those before it are final
    page.locator(".message").get_by_text("old words").wait_for()
    page.reload()
    sidebar.locator("li").first.wait_for(state="attached")
    assert sidebar.locator("li a").all_text_contents() == ["Old"]


@pytest.mark.slow
def test_an_offer_to_undo_passes(wide: Page) -> None:
    wide.clock.install()
    sidebar = filled(wide, *THREE)
    sidebar.get_by_role("link", name="Before").focus()
    wide.keyboard.press("Delete")
    undo = sidebar.get_by_role("button", name="Undo")
    undo.focus()
    wide.clock.run_for(11_000)
    assert undo.is_visible()  # somebody is at it
    sidebar.get_by_role("link", name="Last").focus()
    wide.clock.run_for(11_000)
    assert undo.count() == 0 and titles(sidebar) == ["Last", "Old"]


@pytest.mark.slow
def test_arrows_and_searching(page: Page) -> None:
    sidebar = filled(page, *THREE)
    search = sidebar.get_by_label("Search conversations")
    search.fill("WORDS")
    sidebar.locator("li").nth(2).wait_for(state="detached")
    assert titles(sidebar) == ["Last", "Old"]
    search.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "Old"
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.textContent") == "Last"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.locator(".message").get_by_text("old words").wait_for()
    page.keyboard.press("Control+k")
    assert page.evaluate("document.activeElement.type") == "search"
    page.keyboard.type("nothing of the kind")
    sidebar.get_by_text("Nothing found.").wait_for()
    page.keyboard.press("Escape")
    sidebar.locator("li").nth(2).wait_for()


def test_the_drawer(page: Page) -> None:
    opener = page.locator("#sidebar-open")
    if page.viewport_size["width"] > 768:  # type: ignore[index]
        assert opener.is_hidden() and page.locator("#sidebar").is_visible()
        return
    sidebar = page.locator("#sidebar")
    assert not sidebar.get_by_label("Search conversations").is_visible()
    opener.click()
    assert opener.get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.activeElement.type") == "search"
    for _ in range(12):  # the focus stays in it
        page.keyboard.press("Tab")
        assert page.evaluate("!document.activeElement.closest('#page')")
    sidebar.get_by_label("Search conversations").focus()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "sidebar-open"
    sidebar.get_by_label("Search conversations").wait_for(state="hidden")
    opener.click()
    page.mouse.click(380, 400)
    sidebar.get_by_label("Search conversations").wait_for(state="hidden")
    opener.click()
    page.set_viewport_size({"width": 1000, "height": 760})
    assert sidebar.is_visible() and page.get_by_label("Message").is_enabled()
    page.get_by_label("Message").fill("can be written")


@pytest.mark.slow
def test_to_a_file_and_back(page: Page, browser: Browser, address: str, tmp_path: Path) -> None:
    sidebar = filled(page, *THREE, (HOSTILE, 0, HOSTILE))
    with page.expect_download() as download:
        sidebar.get_by_role("button", name="Export").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.name.startswith("nanochat-") and len(json.loads(saved.read_text())["conversations"]) == 4
    context = browser.new_context(viewport=page.viewport_size)
    other = opened(context, address)
    if other.locator("#sidebar-open").is_visible():
        other.locator("#sidebar-open").click()
    there = other.locator("#sidebar")
    assert there.get_by_role("button", name="Export").is_disabled()
    other.locator("#sidebar input[type=file]").set_input_files(saved)
    there.get_by_text("4 conversations added, 0 changed.").wait_for()
    assert sorted(titles(there)) == sorted(titles(sidebar))
    other.locator("#sidebar input[type=file]").set_input_files(saved)
    there.get_by_text("Nothing new").wait_for()
    odd = tmp_path / f"{'x' * 80}.json"
    odd.write_text('{"nanochat": 1, "conversations": [{"version": 1}]}')
    other.locator("#sidebar input[type=file]").set_input_files(odd)
    there.get_by_text("its id is not").wait_for()
    assert other.evaluate("document.documentElement.scrollWidth") <= other.viewport_size["width"]  # type: ignore[index]
    context.close()


def test_two_tabs_show_the_same(wide: Page, address: str) -> None:
    sidebar = filled(wide, *THREE)
    second = opened(wide.context, address).locator("#sidebar")
    sidebar.get_by_role("link", name="Before").focus()
    wide.keyboard.press("F2")
    sidebar.locator("li input").fill("Renamed here")
    wide.keyboard.press("Enter")
    second.get_by_role("link", name="Renamed here").wait_for()
    second.get_by_role("button", name="Delete Last").click()
    sidebar.get_by_role("link", name="Last").wait_for(state="detached")
    send(wide, "and a new one")
    second.get_by_role("link", name="and a new one").wait_for()
    assert titles(second)[0] == "and a new one"


def test_refused_and_full_are_said(browser: Browser, address: str) -> None:
    context = browser.new_context()
    context.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined })")
    page = opened(context, address)
    page.locator("#sidebar").get_by_text("This browser keeps nothing").wait_for()
    send(page, "still")
    page.get_by_text("So it is.").wait_for()
    page.locator("#sidebar").get_by_role("link", name="still").wait_for()
    context.close()

    context = browser.new_context()
    page = opened(context, address)
    page.evaluate("IDBObjectStore.prototype.put = () => { throw new DOMException('', 'QuotaExceededError'); }; 0")
    send(page, "no room")
    page.locator("#sidebar").get_by_text("There is no room left").wait_for()
    page.get_by_text("So it is.").wait_for()
    page.get_by_role("button", name="New chat").click()
    page.locator("#sidebar").get_by_role("link", name="no room").click()
    page.get_by_text("So it is.").wait_for()  # it is not lost
    context.close()


@pytest.mark.slow
def test_many_conversations(wide: Page) -> None:
    sidebar = filled(wide, *[(f"Number {n}", n * 1000, "x") for n in range(450)])
    assert sidebar.locator("li").count() == 200
    sidebar.get_by_role("button", name="Show more of 450").click()
    assert sidebar.locator("li").count() == 400
    assert wide.evaluate("document.activeElement.textContent") == "Number 200"
    sidebar.get_by_label("Search conversations").fill("number 449")
    sidebar.locator("li").nth(1).wait_for(state="detached")
    assert titles(sidebar) == ["Number 449"]


@pytest.mark.slow
def test_nothing_serious_in_the_eyes_of_axe(axe: Axe, page: Page) -> None:
    sidebar = filled(page, *THREE)
    assert axe(page) == []
    sidebar.get_by_role("link", name="Before").focus()
    page.keyboard.press("Delete")
    sidebar.get_by_role("button", name="Undo").wait_for()
    page.keyboard.press("F2")
    sidebar.locator("li input").wait_for()
    assert axe(page) == []
