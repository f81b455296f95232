"""The chat page in a real browser: asking, streaming, stopping, alternatives, and text that stays text."""

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

if TYPE_CHECKING:
    from playwright.sync_api import Page

Served = Callable[[FastAPI], str]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"> <script>document.title='owned'</script> & <b>bold</b>"


def word(text: str, kind: Any = "text") -> Token:
    return Token(0, text, kind, 0)


def test_a_conversation(screen: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    half, prompts = threading.Event(), []

    def script(request: Request) -> Iterator[Token]:
        prompts.append(request.prompt)
        yield word("You wrote <b>this</b>. ")
        half.wait(20)
        yield from [word("6*7", "python"), word("42", "python_output"), word("It is 42.")]

    engine = scripted(script)
    screen.goto(served(create_app(engine, info)))
    screen.locator("#welcome h2").wait_for()
    screen.locator("#model").get_by_text("sft/d2").locator("visible=true").first.wait_for()
    send(screen, HOSTILE)

    said = screen.get_by_label("nanochat", exact=True).locator(".body")
    said.get_by_text("You wrote <b>this</b>.").wait_for()  # while the rest is not even there
    assert "42" not in said.inner_text()
    assert screen.get_by_role("button", name="Stop").is_visible()
    half.set()
    said.get_by_text("It is 42.").wait_for()
    assert screen.locator(".tool .python").inner_text() == "6*7"
    assert "42" in screen.locator(".tool .python_output").inner_text()

    assert screen.locator(".message.user .body").inner_text() == HOSTILE
    assert screen.locator(".message img, .message script, .message b").count() == 0
    assert screen.title() == "nanochat"

    # the next question carries the answer, tool call and all
    send(screen, "sure?")
    screen.locator(".message").nth(3).get_by_text("It is 42.").wait_for()
    history = engine.tokenizer.decode(prompts[1])
    assert "<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>It is 42." in history
    assert history.endswith("<|user_start|>sure?<|user_end|><|assistant_start|>")


def test_a_tool_call_without_a_result_is_not_shown(
    screen: Page, scripted: Any, info: ModelInfo, served: Served
) -> None:
    """Neither while it is written nor afterwards; but it is shown where an answer says nothing else."""
    begun, prompts = threading.Event(), []

    def script(request: Request) -> Iterator[Token]:
        prompts.append(request.prompt)
        alone = len(prompts) > 1
        yield word("" if alone else "It is ")
        yield from [word("", "special"), word("3*You ", "python"), word("are", "python")]
        if not alone:
            begun.wait(20)
        yield word("", "special")
        yield word("" if alone else " *so*.")

    engine = scripted(script)
    screen.goto(served(create_app(engine, info)))
    send(screen, "what?")
    said = screen.get_by_label("nanochat", exact=True).locator(".body")
    said.get_by_text("It is").wait_for()
    screen.wait_for_function("() => document.querySelector('.message.assistant.streaming')")
    assert screen.locator(".tool").count() == 0
    begun.set()
    said.get_by_text("It is so.", exact=True).wait_for()  # one paragraph
    assert screen.locator(".tool").count() == 0
    assert said.inner_text() == "It is so."
    screen.get_by_role("button", name="Look inside").click()
    screen.locator("#look").get_by_text("are", exact=True).wait_for()  # what the model wrote
    screen.keyboard.press("Escape")

    send(screen, "sure?")
    assert screen.locator(".tool .python").inner_text() == "3*You are"
    history = engine.tokenizer.decode(prompts[1])
    assert "It is <|python_start|>3*You are<|python_end|> *so*.<|assistant_end|>" in history

    screen.get_by_role("button", name="New chat").click()
    screen.locator(".message").first.wait_for(state="detached")
    screen.get_by_text("What would you like to know?").wait_for()


def test_stop_and_try_again(screen: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    def script(request: Request) -> Iterator[Token]:
        while True:
            yield word("on and on ")
            time.sleep(0.01)

    engine = scripted(script)
    screen.goto(served(create_app(engine, info)))
    screen.locator("#welcome h2").wait_for()
    send(screen, "talk")
    screen.locator(".message.assistant").get_by_text("on and on").wait_for()
    screen.keyboard.press("Escape")
    screen.get_by_text("Stopped.").wait_for()
    assert engine.ended.wait(15)
    engine.script = lambda request: [word("enough")]
    screen.get_by_role("button", name="Try again").click()
    screen.get_by_text("enough").wait_for()
    assert screen.locator(".message").count() == 2

    # what there was stands beside it
    screen.get_by_text("2/2").wait_for()
    screen.get_by_role("button", name="Earlier version").click()
    screen.locator(".message.assistant").get_by_text("on and on").wait_for()
    screen.get_by_role("button", name="Later version").click()
    screen.get_by_text("enough").wait_for()


def ask(page: Page, text: str) -> None:
    send(page, text)


def echo(request: Request) -> list[Token]:
    return [word(f"answer {len(request.prompt)}")]


def test_a_question_is_rewritten(screen: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    engine = scripted(echo)
    screen.goto(served(create_app(engine, info)))
    screen.locator("#welcome h2").wait_for()
    for n, text in enumerate(["first", "second", "third"]):
        ask(screen, text)
        screen.locator(".message").nth(2 * n + 1).get_by_text("answer").wait_for()
        screen.locator(".message.streaming").wait_for(state="detached")
    questions = screen.locator(".message.user .body")

    second = screen.locator(".message.user").nth(1)
    second.hover()
    second.get_by_role("button", name="Edit").click()
    screen.get_by_label("Your message").fill("SECOND")
    screen.keyboard.press("Enter")
    screen.get_by_text("SECOND").wait_for()
    screen.locator(".message").nth(3).get_by_text("answer").wait_for()
    assert questions.all_inner_texts() == ["first", "SECOND"]
    history = engine.tokenizer.decode(engine.prompts[-1])
    assert "first" in history and "SECOND" in history and "third" not in history

    # what there was stands beside it, whole; also after a reload
    screen.locator(".message.streaming").wait_for(state="detached")
    second.get_by_role("button", name="Earlier version").click()
    screen.get_by_text("third").wait_for()
    assert questions.all_inner_texts() == ["first", "second", "third"]
    screen.reload()
    screen.get_by_text("third").wait_for()
    second.get_by_role("button", name="Later version").click()
    screen.get_by_text("SECOND").wait_for()
    assert questions.all_inner_texts() == ["first", "SECOND"]

    # leaving it changes nothing
    second.get_by_role("button", name="Edit").click()
    screen.get_by_label("Your message").fill("never")
    screen.keyboard.press("Escape")
    assert questions.all_inner_texts() == ["first", "SECOND"]
    assert second.get_by_role("button", name="Edit").evaluate("(edit) => edit === document.activeElement")
    assert len(engine.prompts) == 4


def test_the_keyboard(screen: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    screen.goto(served(create_app(scripted(echo), info)))
    screen.locator("#welcome h2").wait_for()
    field = screen.get_by_label("Message", exact=True)
    field.fill("one")
    screen.keyboard.press("Shift+Enter")
    screen.keyboard.type("two")
    assert screen.locator(".message").count() == 0
    screen.keyboard.press("Enter")
    screen.locator(".message.assistant").get_by_text("answer").wait_for()
    assert screen.locator(".message.user .body").inner_text() == "one\ntwo"
    screen.locator("#spoken").get_by_text("The answer is finished.").wait_for(state="attached")
    assert screen.get_by_role("log").get_attribute("aria-live") == "off"  # no screen reader speaks each token

    # an input method's Enter chooses a word
    field.fill("nihon")
    key = "{key: 'Enter', bubbles: true, cancelable: true, isComposing: true}"
    field.evaluate(f"(field) => field.dispatchEvent(new KeyboardEvent('keydown', {key}))")
    assert screen.locator(".message").count() == 2
    field.fill("")

    field.press("ArrowUp")
    assert screen.get_by_label("Your message").input_value() == "one\ntwo"
    screen.keyboard.press("Escape")

    screen.locator("#scroller").focus()
    screen.keyboard.press("?")
    screen.get_by_role("heading", name="Keys").wait_for()
    screen.keyboard.press("Escape")
    screen.get_by_role("heading", name="Keys").wait_for(state="hidden")
    field.fill("why?")
    assert screen.get_by_role("heading", name="Keys").is_hidden()

    screen.keyboard.press("Control+k")
    assert screen.get_by_label("Search conversations").evaluate("(search) => search === document.activeElement")
    screen.keyboard.press("Escape")
    screen.keyboard.press("Control+Shift+O")
    screen.get_by_text("What would you like to know?").wait_for()

    skip = screen.get_by_role("link", name="Skip to the message")
    assert skip.bounding_box()["y"] < 0
    skip.focus()
    skip.click()  # it came into sight
    assert field.evaluate("(field) => field === document.activeElement")


@pytest.mark.slow
def test_drafts_are_remembered(screen: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    screen.goto(served(create_app(scripted(echo), info)))
    screen.locator("#welcome h2").wait_for()
    field = screen.get_by_label("Message", exact=True)
    ask(screen, "hello")
    screen.locator(".message.assistant").get_by_text("answer").wait_for()
    field.fill("a draft")
    screen.get_by_role("button", name="New chat").click()
    screen.locator("#welcome h2").wait_for()
    assert field.input_value() == ""
    long = "a long draft " * 20_000
    field.fill(long)
    screen.reload()
    screen.locator("#welcome h2").wait_for()
    assert len(field.input_value()) == len(long)
    field.fill("another <b>draft</b>")
    screen.reload()
    screen.locator("#welcome h2").wait_for()
    assert field.input_value() == "another <b>draft</b>"
    screen.go_back()
    screen.locator(".message.user").wait_for()
    assert field.input_value() == "a draft"
    screen.keyboard.press("Enter")
    screen.locator(".message").nth(3).get_by_text("answer").wait_for()
    assert field.input_value() == ""
    screen.reload()
    screen.locator(".message").nth(3).wait_for()
    assert field.input_value() == ""


def test_an_answer_is_copied(screen: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    screen.context.grant_permissions(["clipboard-read", "clipboard-write"])
    screen.goto(served(create_app(scripted(lambda request: [word("**copied** as it is")]), info)))
    screen.locator("#welcome h2").wait_for()
    ask(screen, "hello")
    screen.locator(".message.assistant").get_by_text("as it is").wait_for()
    screen.locator(".message.assistant").get_by_role("button", name="Copy").click()
    screen.get_by_role("button", name="Copied").wait_for()
    assert screen.evaluate("navigator.clipboard.readText()") == "**copied** as it is"


def test_a_clock_that_is_put_back(screen: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    screen.clock.set_system_time("2026-06-01T10:00:00Z")
    screen.goto(served(create_app(scripted(echo), info)))
    screen.locator("#welcome h2").wait_for()
    ask(screen, "first")
    screen.locator(".message.assistant").get_by_text("answer").wait_for()
    screen.get_by_role("button", name="Try again").and_(screen.locator(":enabled")).wait_for()
    screen.clock.set_system_time("2025-06-01T10:00:00Z")
    screen.get_by_role("button", name="Try again").click()
    screen.get_by_text("2/2").wait_for()
    ask(screen, "second")
    screen.locator(".message").nth(3).get_by_text("answer").wait_for()
    assert screen.locator("#sidebar li a").all_text_contents() == ["first"]
    assert screen.get_by_text("2/2").is_visible()
