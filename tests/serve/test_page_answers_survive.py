"""An answer survives what happens to its reader: a lost connection, a reloaded page, another chat, another tab."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Request, Token
from nanochat.serve import ModelInfo, create_app
from tests.serve.browsing import send
from tests.serve.wire import Wire

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

WORDS = [f"word{n} " for n in range(40)]
WHOLE = "".join(WORDS).strip()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


KEPT = """async (words) => {
  const opened = indexedDB.open("nanochat");
  await new Promise((resolve) => (opened.onsuccess = resolve));
  const all = opened.result.transaction("conversations").objectStore("conversations").getAll();
  await new Promise((resolve) => (all.onsuccess = resolve));
  opened.result.close();
  return JSON.stringify(all.result).includes(words);
}"""


class Slow:
    """Says half of its words, and the rest when it may."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.asked = 0

    def __call__(self, request: Request) -> Iterator[Token]:
        self.asked += 1
        for word in WORDS[:20]:
            yield Token(0, word, "text", 0)
        self.may_end.wait(30)
        for word in WORDS[20:]:
            yield Token(0, word, "text", 0)


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.may_end.set()


def go(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_text("What would you like to know?").wait_for()


def ask(page: Page, text: str = "talk") -> None:
    send(page, text)


def said(page: Page) -> str:
    return " ".join(page.locator(".message.assistant .body").last.inner_text().split())


def whole(page: Page) -> None:
    """Waits for the end, and sees that no word is missing or there twice."""
    page.locator(".message.assistant").get_by_text("word39").wait_for()
    page.locator(".message.streaming").wait_for(state="detached")
    assert said(page) == WHOLE
    assert page.locator(".message .note").count() == 0


def test_the_connection_is_lost(
    page: Page, slow: Slow, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    wire = Wire(served(create_app(scripted(slow), info)))
    go(page, wire.address)
    ask(page)
    page.get_by_text("word19").wait_for()
    wire.cut()
    page.get_by_text("The connection was lost.").wait_for()
    slow.may_end.set()  # it ends while nobody reads
    wire.mend()
    whole(page)
    assert slow.asked == 1
    wire.close()


def test_the_question_is_lost(
    page: Page, slow: Slow, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    slow.may_end.set()
    wire = Wire(served(create_app(scripted(slow), info)))
    go(page, wire.address)
    page.locator("#model").get_by_text("sft/d2").locator("visible=true").first.wait_for()
    wire.cut()
    ask(page)
    page.get_by_text("The connection was lost.").wait_for()
    wire.mend()
    whole(page)
    assert slow.asked == 1
    wire.close()


def test_the_page_is_reloaded(
    page: Page, slow: Slow, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    go(page, served(create_app(scripted(slow), info)))
    ask(page)
    page.get_by_text("word19").wait_for()
    page.reload()
    page.get_by_text("word19").wait_for()
    assert page.get_by_role("button", name="Stop").is_visible()
    slow.may_end.set()
    whole(page)
    page.reload()  # and now it is kept
    whole(page)
    assert slow.asked == 1


def test_the_page_is_closed_and_the_server_forgot(
    page: Page, slow: Slow, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    app = create_app(scripted(slow), info, kept_seconds=0.2)
    go(page, served(app))
    ask(page)
    page.get_by_text("word19").wait_for()
    while not page.evaluate(KEPT, "word19"):
        page.wait_for_timeout(50)
    address = page.url
    page.goto("about:blank")
    slow.may_end.set()
    page.wait_for_timeout(500)  # longer than it is kept
    page.goto(address)
    page.get_by_text("The answer broke off.").wait_for()
    assert page.get_by_text("word19").is_visible()
    slow.may_end.clear()
    page.get_by_role("button", name="Continue").click()
    page.locator(".message.streaming").get_by_text("word19 word0").wait_for()
    slow.may_end.set()
    page.get_by_text("word39").wait_for()
    assert slow.asked == 2


def test_another_tab_reads_the_same_answer(
    context: BrowserContext, page: Page, slow: Slow, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    go(page, served(create_app(scripted(slow), info)))
    ask(page)
    page.get_by_text("word19").wait_for()
    other = context.new_page()
    other.goto(page.url)
    other.get_by_text("word19").wait_for()
    slow.may_end.set()
    whole(page)
    whole(other)
    for one in (page, other):
        one.reload()
        whole(one)
    assert slow.asked == 1

    # and what the other one says next is seen here
    ask(other, "again")
    other.locator(".message").nth(3).get_by_text("word39").wait_for()
    page.locator(".message").nth(3).get_by_text("word39").wait_for()


def test_answers_in_two_conversations(
    page: Page, slow: Slow, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    go(page, served(create_app(scripted(slow), info)))
    ask(page, "first")
    page.get_by_text("word19").wait_for()
    first = page.url
    page.get_by_role("button", name="New chat").click()
    page.get_by_text("What would you like to know?").wait_for()
    ask(page, "second")
    page.locator(".message.user").get_by_text("second").wait_for()
    page.go_back()
    page.locator(".message.user").get_by_text("first").wait_for()
    assert page.url == first
    assert page.get_by_role("button", name="Stop").is_visible()
    slow.may_end.set()
    whole(page)
    page.go_forward()
    page.locator(".message.user").get_by_text("second").wait_for()
    whole(page)
    assert slow.asked == 2


def test_two_answers_are_taken_up_after_a_reload(
    page: Page, slow: Slow, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    """The one that is not shown, too: the server would not keep it for long."""
    go(page, served(create_app(scripted(slow), info, kept_seconds=2)))
    ask(page, "first")
    page.get_by_text("word19").wait_for()
    page.get_by_role("button", name="New chat").click()
    page.get_by_text("What would you like to know?").wait_for()
    ask(page, "second")
    page.locator(".message.streaming").wait_for()
    page.reload()
    page.locator(".message.streaming").wait_for()
    page.wait_for_timeout(4000)  # longer than what nobody reads is kept
    slow.may_end.set()
    whole(page)
    page.go_back()
    page.locator(".message.user").get_by_text("first").wait_for()
    whole(page)
    assert slow.asked == 2


def test_a_conversation_that_another_tab_deletes(
    context: BrowserContext, page: Page, slow: Slow, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    engine = scripted(slow)
    go(page, served(create_app(engine, info)))
    ask(page)
    page.get_by_text("word19").wait_for()
    other = context.new_page()
    other.goto(page.url.partition("#")[0])
    other.get_by_role("navigation", name="Conversations by day").get_by_role("link", name="talk").focus()
    other.keyboard.press("Delete")
    page.get_by_text("This conversation was deleted in another tab.").wait_for()
    slow.may_end.set()
    assert engine.ended.wait(15)
    page.reload()
    page.get_by_text("Conversations will be listed here.").wait_for()


def test_a_conversation_that_is_deleted_elsewhere_while_it_grows(
    context: BrowserContext, page: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    def growing(request: Request) -> Iterator[Token]:
        for _ in range(3000):
            yield Token(0, "on ", "text", 0)
            time.sleep(0.01)

    engine = scripted(growing)
    go(page, served(create_app(engine, info)))
    ask(page)
    page.locator(".message.assistant").get_by_text("on on on").wait_for()
    other = context.new_page()
    other.goto(page.url.partition("#")[0])
    other.get_by_role("navigation", name="Conversations by day").get_by_role("link", name="talk").focus()
    other.keyboard.press("Delete")
    page.get_by_text("This conversation was deleted in another tab.").wait_for()
    page.get_by_text("What would you like to know?").wait_for()  # what would be said there would not be kept
    assert engine.ended.wait(15)
