"""The pages in axe's eyes: nothing serious, in light and dark, on a desktop and on a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Engine, Request, Token
from nanochat.metrics import MetricsWriter, training_file
from nanochat.serve import Access, Defaults, ModelInfo, create_app
from nanochat.serve.watch import create_app as create_watch
from nanochat.train.answers import FILE, Answer, add_answers
from tests.serve.axe import Axe, axe
from tests.serve.browsing import named, send

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["axe"]
Served = Callable[[FastAPI], str]
MARKDOWN = """# A heading

Some **bold**, *em*, ~~gone~~ `code` and [a link](https://a.example/x).

- one
- [ ] to do
- [x] done

1. first

> a quote

```python
def f(x): return "a long line that goes on and on and on and on and on and on and on and on and on and on and on and on"
```

| a | b |
|---|--:|
| 1 | 2 |

---
"""


@pytest.fixture
def page(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    context = browser.new_context(viewport={"width": 1000, "height": 760}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(30_000)
    yield page
    context.close()


def test_it_finds_what_is_wrong(axe: Axe, page: Page) -> None:
    page.set_content(
        "<html lang=en><title>x</title><main><img src=x><p style='color:#ccc;background:#fff'>pale</p></main>"
    )
    assert {one.split(":")[0] for one in axe(page)} == {"image-alt", "color-contrast"}


def test_watch_page(axe: Axe, page: Page, served: Served) -> None:
    writer = MetricsWriter(training_file("base", "d4"))
    writer.write("settings", stage="base", tag="d4", steps=1000, machine="cpu", dataset="tinyworld")
    for step in range(1, 101):
        writer.write("step", step=step, loss=2 + 5 / step, tokens=step * 4096, seconds=step * 0.5, tok_per_s=8000.0)
    writer.write("eval", step=100, tokens=409_600, val_bpb=1.5)
    answers = [Answer("Who are you?", "identity", "A cat.", False, "I am nanochat."), Answer("Tell.", "story", "Once.")]
    add_answers(writer.path.with_name(FILE), 100, 409_600, {"loss": 3.0}, answers)
    writer.write("step", step=101, loss=float("nan"), seconds=51.0)
    page.goto(f"{served(create_watch())}/train")
    page.get_by_text("base-d4 is running").wait_for()
    page.get_by_text("Tell.").wait_for()
    assert axe.everywhere(page) == []


def test_login(axe: Axe, page: Page, served: Served, scripted: Any, info: ModelInfo) -> None:
    page.goto(served(create_app(scripted(lambda request: []), info, access=Access("key"))))
    page.get_by_role("button", name="Log in").wait_for()
    assert axe.everywhere(page) == []


@pytest.fixture
def chat(page: Page, served: Served, scripted: Any, info: ModelInfo) -> Page:
    """The chat page of a model that answers with all there is of Markdown, and a tool call."""

    def script(request: Request) -> list[Token]:
        text = [Token(0, piece, "text", 0) for piece in (MARKDOWN[:200], MARKDOWN[200:])]
        return [
            *text,
            Token(0, "6*7", "python", 0),
            Token(0, "42", "python_output", 0),
            Token(0, "It is 42.", "text", 0),
        ]

    page.goto(served(create_app(scripted(script), info)))
    page.get_by_text("sft/d2").first.wait_for()
    return page


def ask(page: Page) -> None:
    send(page, "tell me")
    page.get_by_text("It is 42.").wait_for()


def test_welcome(axe: Axe, chat: Page) -> None:
    assert axe.everywhere(chat) == []


def test_a_conversation(axe: Axe, chat: Page) -> None:
    ask(chat)
    assert axe.everywhere(chat) == []


def test_what_opens(axe: Axe, chat: Page) -> None:
    ask(chat)
    for name in ("Settings", "Keys"):
        chat.get_by_role("button", name=name, exact=True).first.click()
        chat.locator("dialog[open]").wait_for()
        assert axe.everywhere(chat) == [], name
        chat.keyboard.press("Escape")
        chat.locator("dialog[open]").wait_for(state="hidden")


@pytest.mark.slow
def test_models_side_by_side_and_the_panel(
    axe: Axe, page: Page, served: Served, of_run: Callable[[str], FastAPI]
) -> None:
    page.goto(served(of_run("sft")))
    page.get_by_label("Which model answers:").click()
    page.get_by_role("option").first.wait_for()
    assert axe.everywhere(page) == []
    page.get_by_role("button", name="Side by side").click()
    page.get_by_role("option").filter(has_text="base/d1, step 20").click()
    send(page, "tell me")
    page.get_by_text("first token after").nth(1).wait_for()
    page.get_by_role("button", name="Send").wait_for()
    assert axe.everywhere(page) == []
    page.get_by_role("button", name="Figures").click()
    page.get_by_text("How it was trained").first.wait_for()
    assert axe.everywhere(page) == []


@pytest.mark.slow
def test_looking_inside_and_correcting(axe: Axe, page: Page, served: Served, engine: Engine, info: ModelInfo) -> None:
    page.goto(served(create_app(engine, info, Defaults(temperature=0, max_tokens=12), access=Access())))
    named(page, "sft/d2")
    send(page, "tell me")
    page.get_by_role("button", name="Correct").click()
    page.get_by_role("button", name="Save").wait_for()
    assert axe.everywhere(page) == []
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Look inside").click()
    dialog = page.get_by_role("dialog", name="Look inside")
    dialog.locator(".token").nth(2).click()
    dialog.get_by_role("button", name="Why?").click()
    dialog.get_by_role("heading", name="looked").first.wait_for()
    assert axe.everywhere(page) == []
