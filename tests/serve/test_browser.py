"""The page in a real browser: streaming, tool calls, stopping, and text that stays text."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Request, Token
from nanochat.serve import Access, ModelInfo, create_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script> & <b>bold</b>"


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1000, "height": 760})
    page = context.new_page()
    page.set_default_timeout(15_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert [problem for problem in problems if "422" not in problem] == []


def word(text: str, kind: Any = "text") -> Token:
    return Token(0, text, kind, 0)


def test_a_conversation(page: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> None:
    half, prompts = threading.Event(), []

    def script(request: Request) -> Iterator[Token]:
        prompts.append(request.prompt)
        yield word("You wrote <b>this</b>. ")
        half.wait(20)
        yield from [word("6*7", "python"), word("42", "python_output"), word("It is 42.")]

    engine = scripted(script)
    page.goto(served(create_app(engine, info)))
    page.get_by_text("sft/d2, step 7").wait_for()
    page.get_by_label("Message").fill(HOSTILE)
    page.keyboard.press("Enter")

    said = page.get_by_label("nanochat", exact=True).locator(".body")
    said.get_by_text("You wrote <b>this</b>.").wait_for()  # while the rest is not even there
    assert "42" not in said.inner_text()
    assert page.get_by_role("button", name="Stop").is_visible()
    half.set()
    said.get_by_text("It is 42.").wait_for()
    assert page.locator(".tool .python").inner_text() == "6*7"
    assert "42" in page.locator(".tool .python_output").inner_text()

    assert page.locator(".message.user .body").inner_text() == HOSTILE
    assert page.locator(".message img, .message script, .message b").count() == 0
    assert page.title() == "nanochat"

    # the next question carries the answer, tool call and all
    page.get_by_label("Message").fill("sure?")
    page.get_by_role("button", name="Send").click()
    page.locator(".message").nth(3).get_by_text("It is 42.").wait_for()
    history = engine.tokenizer.decode(prompts[1])
    assert "<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>It is 42." in history
    assert history.endswith("<|user_start|>sure?<|user_end|><|assistant_start|>")

    page.get_by_role("button", name="New chat").click()
    assert page.locator(".message").count() == 0


def test_stop_and_try_again(page: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> None:
    def script(request: Request) -> Iterator[Token]:
        while True:
            yield word("on and on ")
            time.sleep(0.01)

    engine = scripted(script)
    page.goto(served(create_app(engine, info)))
    page.get_by_label("Message").fill("talk")
    page.keyboard.press("Enter")
    page.locator(".message.assistant").get_by_text("on and on").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.").wait_for()
    assert engine.ended.wait(15)
    engine.script = lambda request: [word("enough")]
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("enough").wait_for()
    assert page.locator(".message").count() == 2


def test_settings_are_sent_and_errors_are_shown(
    page: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    seen: list[tuple[float, int | None, int]] = []

    def script(request: Request) -> list[Token]:
        seen.append((request.temperature, request.top_k, request.max_tokens))
        return [word("yes")]

    page.goto(served(create_app(scripted(script), info)))
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0.1")
    page.get_by_label("Top k").fill("3")
    page.get_by_label("Longest answer").fill("77")
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Who are you?").click()
    page.get_by_text("yes").wait_for()
    assert seen == [(0.1, 3, 77)]

    page.evaluate("document.getElementById('input').maxLength = 10000")
    page.get_by_label("Message").fill("x" * 9000)
    page.keyboard.press("Enter")
    page.get_by_text("8000").wait_for()
    assert len(seen) == 1


@pytest.mark.parametrize("by_hand", [True, False])
def test_logging_in(
    by_hand: bool, page: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    app = create_app(scripted(lambda request: [word("yes")]), info, access=Access("k+e/y&=%"))
    address = served(app)
    if by_hand:
        page.goto(address)
        page.get_by_label("The key of this server").fill("k+e/y&=%")
        page.get_by_role("button", name="Log in").click()
    else:
        page.goto(f"{address}/login?key=k%2Be%2Fy%26%3D%25")
    page.get_by_text("sft/d2, step 7").wait_for()
    assert page.url == f"{address}/"
    page.get_by_label("Message").fill("hello?")
    page.keyboard.press("Enter")
    page.get_by_text("yes").wait_for()
    assert page.evaluate("document.cookie") == ""  # no script can read it
