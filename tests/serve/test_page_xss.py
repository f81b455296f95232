"""Texts that want to be more than text, at every place of the chat page where somebody else's words are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Request, Token
from nanochat.serve import ModelInfo, create_app
from tests.serve.browsing import send
from tests.serve.empty_page import with_empty_page
from tests.serve.xss import PAYLOADS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Served = Callable[[FastAPI], str]
# What our own scripts make; with anything else, somebody's words have become more than text.
STRANGE = """() => {
  const ours = (url) => url.startsWith(`${location.origin}/static/`);
  const foreign = (one) =>
    ["IFRAME", "OBJECT", "EMBED", "BASE", "META", "STYLE", "VIDEO", "AUDIO", "FRAME", "APPLET", "MARQUEE", "TEMPLATE"]
      .includes(one.tagName.toUpperCase()) && !document.head.contains(one)
    || ["SCRIPT", "IMG"].includes(one.tagName) && !ours(one.src)
    || one.tagName === "LINK" && !ours(one.href)
    || one.namespaceURI !== "http://www.w3.org/1999/xhtml"
    || one.localName.includes("-") || one.localName === "xss"
    || [...one.attributes].some(({ name, value }) => name.startsWith("on") || name === "ping" || name === "srcdoc"
      || ["href", "src", "action"].includes(name)
        && !/^(https?:|mailto:|\\/static\\/|\\/train$|\\/login$|[#?])/.test(value));
  return [...document.querySelectorAll("*")].filter(foreign).map((one) => one.outerHTML.slice(0, 200));
}"""


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1100, "height": 800}, service_workers="block")
    page = context.new_page()
    page.set_default_timeout(30_000)
    happened: list[str] = []
    page.on("dialog", lambda dialog: happened.append(f"dialog {dialog.message}"))
    page.on("pageerror", lambda error: happened.append(str(error)))
    page.on("popup", lambda other: happened.append(f"popup {other.url}"))
    page.on("console", lambda message: happened.append(message.text) if "Security Policy" in message.text else None)
    page.on("request", lambda asked: None if "//127.0.0.1:" in asked.url else happened.append(asked.url))
    yield page
    assert page.evaluate("window.ran") is None
    assert page.evaluate(STRANGE) == []
    assert "owned" not in page.title()
    context.close()
    assert happened == []


def well(page: Page) -> None:
    """After somebody's words were shown."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    assert page.evaluate(STRANGE) == []
    assert page.evaluate("window.ran") is None


def shown(text: str) -> str:
    """Without what a browser shows otherwise: control characters, and blanks at the ends."""
    return "".join(text.replace("\t", " ").split())


def words(page: Page, place: str) -> list[str]:
    found: list[str] = page.eval_on_selector_all(place, "all => all.map((one) => one.textContent)")
    return [shown(one) for one in found]


def test_it_would_be_found(browser: Browser, scripted: Any, info: ModelInfo, served: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{served(with_empty_page(create_app(scripted(lambda request: []), info)))}/empty")
    script = f"""(payloads) => payloads.filter((payload) => {{
      document.body.innerHTML = payload;
      return ({STRANGE})().length > 0;
    }}).length"""
    found = page.evaluate(script, PAYLOADS)
    context.close()
    assert found > 80  # the others are meant for readers of Markdown, or for other places


def test_what_people_and_models_write(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    """Each payload is asked, named as the title by that, and answered with as text, in pieces, and as a tool call."""
    parts: list[str] = []

    def script(request: Request) -> Iterator[Token]:
        for payload in parts:
            for at in range(0, len(payload), 7):
                yield Token(0, payload[at : at + 7], "text", 0)
            yield Token(0, "\n\n", "text", 0)
            yield Token(0, payload, "python", 0)
            yield Token(0, payload, "python_output", 0)
        yield Token(0, "all said", "text", 0)

    page.goto(served(create_app(scripted(script), info)))
    page.locator("#welcome h2").wait_for()
    for some in chunks(PAYLOADS, 30):
        parts[:] = some
        question = "\n".join(some)
        page.get_by_role("button", name="New chat", exact=True).first.click()
        send(page, question)
        page.get_by_text("all said").wait_for()
        well(page)
        assert words(page, ".message.user .body") == [shown(question)]
        tools = words(page, ".tool .python")
        assert tools == [shown(payload) for payload in some]
        assert words(page, ".tool .python_output") == tools
    page.reload()
    page.locator(".message.user").first.wait_for()
    well(page)


def chunks(values: list[str], size: int) -> Iterator[list[str]]:
    for at in range(0, len(values), size):
        yield values[at : at + size]


def conversation(number: int, payloads: list[str]) -> dict[str, Any]:
    """As a file may have it: a payload at every place that is text."""
    nodes: dict[str, Any] = {}
    parent = None
    ids = iter(range(1, 1000))
    for payload in payloads:
        mine, answer = (f"{number:08x}{next(ids):024x}" for _ in range(2))
        nodes[mine] = {
            "id": mine,
            "parent": parent,
            "role": "user",
            "time": 1,
            "parts": [{"type": "text", "text": payload}],
        }
        nodes[answer] = {
            "id": answer,
            "parent": mine,
            "role": "assistant",
            "time": 2,
            "parts": [{"type": kind, "text": payload} for kind in ("text", "python", "python_output")],
            "model": payload,
            "tokens": [[1, payload, "text", 0.5]],
            "start": {
                "id": answer, "model": payload, "chat": True,
                "prompt_tokens": 1, "window": 9, "left_out": 2, "cut": 1, "begun": 0,
            },
            "end": {"finish": "failed", "error": payload, "tokens": 1, "seconds": 1, "first": 1},
            "rating": "bad",
            "correction": payload,
            "unknown": payload,
        }  # fmt: skip
        parent = answer
    found = {"version": 1, "id": f"{number:032x}", "title": payloads[0], "named": True, "system": payloads[-1]}
    return {**found, "mode": "chat", "created": 1, "changed": number + 1, "nodes": nodes, "leaf": parent}


@pytest.mark.slow
def test_what_a_file_brings(page: Page, scripted: Any, info: ModelInfo, served: Served, tmp_path: Path) -> None:
    """Titles, system prompts, messages, tool calls, models' names, errors, corrections, all by somebody else."""
    address = served(create_app(scripted(lambda request: []), info))
    page.goto(address)
    page.locator("#welcome h2").wait_for()
    path = tmp_path / "<img src=x onerror=window.ran=1>.json"
    groups = [*chunks(PAYLOADS, 30)]
    titles = [conversation(1000 + n, [payload]) for n, payload in enumerate(PAYLOADS)]
    everything = [conversation(n, group) for n, group in enumerate(groups)]
    path.write_text(json.dumps({"nanochat": 1, "conversations": [*titles, *everything]}))
    page.locator("#sidebar input[type=file]").set_input_files(path)
    page.locator("#sidebar li").nth(len(PAYLOADS)).wait_for()
    well(page)
    listed = words(page, "#sidebar li a")
    assert {shown(payload) for payload in PAYLOADS} <= set(listed)
    for n, group in enumerate(groups):
        page.goto(f"{address}/#{n:032x}")
        page.reload()
        page.locator(".message.user").nth(len(group) - 1).wait_for()
        well(page)
        assert words(page, ".message.user .body") == [shown(payload) for payload in group]
    page.get_by_role("button", name="Settings", exact=True).first.click()
    page.locator("dialog[open]").wait_for()
    well(page)
    path.write_text(
        json.dumps({"nanochat": 1, "conversations": [{"version": payload, "id": payload} for payload in PAYLOADS]})
    )
    page.keyboard.press("Escape")
    page.locator("#sidebar input[type=file]").set_input_files(path)
    well(page)


def test_what_a_server_says(page: Page, scripted: Any, served: Served) -> None:
    """Names of models, cards, errors: a server of somebody else's, or a checkpoint with an odd name."""
    page.goto(
        served(create_app(scripted(lambda request: [Token(0, "yes", "text", 0)]), ModelInfo("sft", PAYLOADS[0], 7, 1)))
    )
    page.locator("#welcome h2").wait_for()
    many = "\n".join(PAYLOADS)
    models = [
        {"id": payload, "stage": payload, "tag": payload, "step": 1, "bytes": 1, "written": 1, "own": n == 0,
         "loaded": True, "chat": True}
        for n, payload in enumerate(PAYLOADS)
    ]  # fmt: skip
    card = {
        "id": many,
        "stage": many,
        "tag": many,
        "step": 1,
        "depth": 1,
        "parameters": 1,
        "window": 9,
        "vocab_size": 9,
    }
    card |= {
        "trained": [[payload, payload] for payload in PAYLOADS],
        "scores": [[payload, payload] for payload in PAYLOADS],
    }
    page.route("**/page/models", lambda route: route.fulfill(json={"models": models, "picker": True}))
    page.route("**/page/card*", lambda route: route.fulfill(json=card))
    page.route("**/page/answers", lambda route: route.fulfill(status=422, json={"detail": many}))
    page.reload()
    page.locator("#welcome h2").wait_for()
    well(page)
    send(page, "hello")
    page.get_by_text("window.ran=1").locator("visible=true").first.wait_for()
    well(page)
    if page.locator("#panel-open").is_visible():
        page.locator("#panel-open").click()
        page.locator("#panel").get_by_text("window.ran=1").first.wait_for()
        well(page)
