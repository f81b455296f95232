"""The chat page in a real browser: asking, streaming, stopping, alternatives, and text that stays text."""

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


@pytest.fixture(params=[(1000, 760), (390, 760)], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
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
    page.locator("#model").get_by_text("sft/d2").first.wait_for()
    page.get_by_label("Message", exact=True).fill(HOSTILE)
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
    page.get_by_label("Message", exact=True).fill("sure?")
    page.get_by_role("button", name="Send").click()
    page.locator(".message").nth(3).get_by_text("It is 42.").wait_for()
    history = engine.tokenizer.decode(prompts[1])
    assert "<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>It is 42." in history
    assert history.endswith("<|user_start|>sure?<|user_end|><|assistant_start|>")

    page.get_by_role("button", name="New chat").click()
    page.locator(".message").first.wait_for(state="detached")
    page.get_by_text("What would you like to know?").wait_for()


def test_stop_and_try_again(page: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> None:
    def script(request: Request) -> Iterator[Token]:
        while True:
            yield word("on and on ")
            time.sleep(0.01)

    engine = scripted(script)
    page.goto(served(create_app(engine, info)))
    page.get_by_label("Message", exact=True).fill("talk")
    page.keyboard.press("Enter")
    page.locator(".message.assistant").get_by_text("on and on").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.").wait_for()
    assert engine.ended.wait(15)
    engine.script = lambda request: [word("enough")]
    page.get_by_role("button", name="Try again").click()
    page.get_by_text("enough").wait_for()
    assert page.locator(".message").count() == 2

    # what there was stands beside it
    page.get_by_text("2/2").wait_for()
    page.get_by_role("button", name="Earlier version").click()
    page.locator(".message.assistant").get_by_text("on and on").wait_for()
    page.get_by_role("button", name="Later version").click()
    page.get_by_text("enough").wait_for()
