"""Chats that are long: the newest messages are shown first, earlier ones when they are wanted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Request, Token
from nanochat.serve import ModelInfo, create_app
from tests.serve.browsing import send

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.mark.slow
def test_earlier_messages_are_shown_when_they_are_wanted(
    screen: Page, scripted: Any, info: ModelInfo, served: Callable[[FastAPI], str]
) -> None:
    def script(request: Request) -> list[Token]:
        return [Token(0, "one more", "text", 0)]

    screen.goto(served(create_app(scripted(script), info)))
    screen.locator("#welcome h2").wait_for()
    turns = [{"role": ["user", "assistant"][n % 2], "content": f"message number {n}"} for n in range(450)]
    brought = json.dumps({"messages": turns}).encode()
    screen.locator("input[type=file]").set_input_files(
        {"name": "long.jsonl", "mimeType": "application/json", "buffer": brought}
    )
    screen.get_by_text("1 conversation added").wait_for(state="attached")
    address = screen.locator("#sidebar li a").get_attribute("href")
    screen.evaluate("address => { location.hash = address }", address)

    messages, earlier = screen.locator("#messages .message"), screen.get_by_role("button", name="Show earlier messages")
    screen.get_by_text("message number 449", exact=True).wait_for()
    assert messages.count() == 200
    assert earlier.inner_text() == "Show earlier messages (250)"
    for there, left in [(400, 1), (450, 0)]:
        earlier.focus()
        first = messages.first.element_handle()
        before = first.bounding_box()
        screen.keyboard.press("Enter")
        screen.locator("#messages").get_by_text(f"message number {450 - there}", exact=True).wait_for(state="attached")
        assert messages.count() == there
        assert earlier.count() == left
        screen.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        after = first.bounding_box()
        assert before is not None and after is not None
        assert abs(after["y"] - before["y"]) <= 2  # what one reads stays where it is
    assert screen.evaluate("document.activeElement.id") == "scroller"

    send(screen, "and?")
    screen.get_by_text("one more", exact=True).wait_for()
    assert screen.get_by_text("one more", exact=True).bounding_box()["y"] < 800  # type: ignore[index]
