"""The settings of the chat page, in a real browser: what is sent, remembered, named, and what of it is odd."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Request, Token
from nanochat.serve import ModelInfo, create_app
from tests.serve.browsing import send

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

KEY = "nanochat-settings"


@pytest.fixture
def seen() -> list[Request]:
    """What the model was asked."""
    return []


@pytest.fixture
def engine(scripted: Any, seen: list[Request]) -> Any:
    def script(request: Request) -> list[Token]:
        seen.append(request)
        return [Token(0, "So it is.", "text", 0)]

    return scripted(script)


@pytest.fixture
def address(engine: Any, info: ModelInfo, served: Callable[[FastAPI], str]) -> str:
    return served(create_app(engine, info))


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    page = context.new_page()
    page.set_default_timeout(15_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(address)
    page.get_by_text("sft/d2").first.wait_for(state="attached")
    yield page
    context.close()
    assert problems == []


def opened(page: Page) -> Locator:
    page.get_by_role("button", name="Settings").click()
    return page.locator("#settings")


def ask(page: Page, seen: list[Request], text: str = "so?") -> Request:
    before, answers = len(seen), page.locator(".message.assistant").count()
    send(page, text)
    page.locator(".message.assistant:not(.streaming)").nth(answers).get_by_text("So it is.").wait_for()
    assert len(seen) == before + 1
    return seen[-1]


def kept(page: Page) -> dict[str, Any]:
    return json.loads(page.evaluate(f"localStorage.getItem('{KEY}')"))


def test_what_is_set_is_sent_and_remembered(page: Page, seen: list[Request], engine: Any) -> None:
    first = ask(page, seen)
    assert (first.temperature, first.top_k, first.top_p, first.max_tokens) == (0.6, 50, 1.0, 512)
    settings = opened(page)
    settings.get_by_label("Temperature").fill("0.1")
    settings.get_by_label("Top k").fill("3")
    settings.get_by_label("Top p").fill("0.5")
    settings.get_by_label("Longest answer").fill("77")
    settings.get_by_label("Seed").fill("12345")
    settings.get_by_label("System prompt").fill("Be <b>brief</b>.")
    assert settings.locator(".setting.other").count() == 5
    settings.get_by_role("button", name="Done").click()
    sent = ask(page, seen)
    assert (sent.temperature, sent.top_k, sent.top_p, sent.max_tokens, sent.seed) == (0.1, 3, 0.5, 77, 12345)
    assert "Be <b>brief</b>." in engine.tokenizer.decode(sent.prompt)
    page.reload()
    page.get_by_text("sft/d2").first.wait_for(state="attached")
    again = ask(page, seen)
    assert (again.temperature, again.seed) == (0.1, 12345) and "Be <b>brief" in engine.tokenizer.decode(again.prompt)

    opened(page)
    settings.get_by_role("button", name="Back to 0.6").click()
    settings.get_by_role("button", name="Back to random").click()
    assert settings.locator(".setting.other").count() == 3
    assert settings.get_by_label("Temperature").input_value() == "0.6"
    settings.get_by_role("button", name="Back to defaults").click()
    assert settings.locator(".setting.other").count() == 0
    page.keyboard.press("Escape")
    last = ask(page, seen)
    assert (last.temperature, last.top_k, last.top_p, last.max_tokens) == (0.6, 50, 1.0, 512) and last.seed != 12345


def test_a_system_prompt_belongs_to_its_conversation(page: Page, seen: list[Request], engine: Any) -> None:
    settings = opened(page)
    settings.get_by_label("System prompt").fill("FIRST")
    settings.get_by_text("New conversations begin with none.").wait_for()
    page.keyboard.press("Escape")
    assert "FIRST" in engine.tokenizer.decode(ask(page, seen, "one").prompt)
    page.get_by_role("button", name="New chat").click()
    assert "FIRST" not in engine.tokenizer.decode(ask(page, seen, "two").prompt)
    opened(page)
    assert settings.get_by_label("System prompt").input_value() == ""
    settings.get_by_label("System prompt").fill("SECOND")
    settings.get_by_role("button", name="Also for new conversations").click()
    settings.get_by_text("New conversations begin with the same.").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="New chat").click()
    assert "SECOND" in engine.tokenizer.decode(ask(page, seen, "three").prompt)
    page.locator("#sidebar").get_by_role("link", name="one").click()
    page.locator(".message.user").get_by_text("one").wait_for()
    assert "FIRST" in engine.tokenizer.decode(ask(page, seen).prompt)


def test_what_cannot_be_is_said_and_not_taken(page: Page, seen: list[Request]) -> None:
    settings = opened(page)
    longest = settings.get_by_label("Longest answer")
    longest.fill("20")
    for odd in ("0", "5000", "1.5", "-3"):
        longest.fill(odd)
        settings.get_by_text("A whole number from 1 to 4096.").wait_for()
        assert longest.get_attribute("aria-invalid") == "true"
    settings.get_by_label("Seed").press_sequentially("1e99")
    settings.get_by_text("A whole number from 0.").wait_for()
    settings.get_by_role("button", name="Done").click()
    sent = ask(page, seen)
    assert sent.max_tokens == 20
    assert opened(page).get_by_label("Longest answer").input_value() == "20"
    longest.fill("")  # the server's own
    page.keyboard.press("Escape")
    assert ask(page, seen).max_tokens == 512


def test_presets(page: Page, seen: list[Request], engine: Any) -> None:
    settings = opened(page)
    name, preset = settings.get_by_label("Name of a new preset"), settings.get_by_label("Preset", exact=True)
    for temperature, system, called in (("0.2", "SOBER", "Sober"), ("1.5", "WILD", "__proto__")):
        settings.get_by_label("Temperature").fill(temperature)
        settings.get_by_label("System prompt").fill(system)
        name.fill(called)
        name.press("Enter")
        settings.get_by_text(f"Saved as “{called}”.").wait_for()
    assert settings.is_visible() and preset.input_value() == "__proto__"
    preset.select_option("Sober")
    assert settings.get_by_label("Temperature").input_value() == "0.2"
    settings.get_by_label("Temperature").fill("0.3")
    assert preset.input_value() == ""
    name.fill("Sober")
    settings.get_by_role("button", name="Replace").click()
    settings.get_by_text("“Sober” is replaced.").wait_for()
    settings.get_by_role("button", name="Undo").click()
    page.reload()
    page.get_by_text("sft/d2").first.wait_for(state="attached")
    opened(page)
    preset.select_option("Sober")
    assert settings.get_by_label("Temperature").input_value() == "0.2"
    preset.select_option("__proto__")
    page.keyboard.press("Escape")
    sent = ask(page, seen)
    assert sent.temperature == 1.5 and "WILD" in engine.tokenizer.decode(sent.prompt)
    opened(page)
    settings.get_by_role("button", name="Delete", exact=True).click()
    settings.get_by_text("Deleted “__proto__”.").wait_for()
    assert list(kept(page)["presets"]) == ["Sober"]
    settings.get_by_role("button", name="Undo").click()
    assert sorted(kept(page)["presets"]) == ["Sober", "__proto__"] and preset.input_value() == "__proto__"


def test_what_older_and_later_pages_kept(page: Page, seen: list[Request]) -> None:
    page.evaluate(
        f"localStorage.setItem('{KEY}', JSON.stringify({{ temperature: 0.25, top_k: 7, theme: 'dark', later: [1] }}))"
    )
    page.reload()
    page.get_by_text("sft/d2").first.wait_for(state="attached")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    sent = ask(page, seen)
    assert (sent.temperature, sent.top_k, sent.max_tokens) == (0.25, 7, 512)
    opened(page).get_by_label("Colours").select_option("light")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert kept(page) == {"temperature": 0.25, "top_k": 7, "theme": "light", "later": [1]}


@pytest.mark.parametrize(
    "odd",
    [
        "{",
        pytest.param("null", marks=pytest.mark.slow),
        pytest.param("5", marks=pytest.mark.slow),
        pytest.param("[]", marks=pytest.mark.slow),
        pytest.param('"text"', marks=pytest.mark.slow),
        '{"temperature": 9, "top_k": "3", "top_p": null, "max_tokens": 1.5, "seed": -1, "theme": "<b>", "system": {}}',
        pytest.param('{"presets": 5, "system": []}', marks=pytest.mark.slow),
        '{"presets": {"x": null, "y": {"settings": 5, "system": 5}, "__proto__": {"settings": {"temperature": 1}}}}',
    ],
)
def test_odd_settings_fall_back(page: Page, seen: list[Request], odd: str) -> None:
    page.evaluate(f"text => localStorage.setItem('{KEY}', text)", odd)
    page.reload()
    page.get_by_text("sft/d2").first.wait_for(state="attached")
    sent = ask(page, seen)
    assert (sent.temperature, sent.top_k, sent.top_p, sent.max_tokens) == (0.6, 50, 1.0, 512)
    assert page.evaluate("document.documentElement.dataset.theme") == ""
    settings = opened(page)
    settings.get_by_label("Temperature").fill("0.4")
    assert kept(page)["temperature"] == 0.4


def test_two_tabs(page: Page, address: str, seen: list[Request]) -> None:
    other = page.context.new_page()
    other.goto(address)
    other.get_by_text("sft/d2").first.wait_for(state="attached")
    theirs = opened(other)
    mine = opened(page)
    mine.get_by_label("Temperature").fill("1.25")
    mine.get_by_label("Colours").select_option("dark")
    other.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    assert theirs.get_by_label("Temperature").input_value() == "1.25"
    theirs.get_by_label("Top k").fill("9")
    page.wait_for_function("() => document.getElementById('setting-top_k').value === '9'")
    assert mine.get_by_label("Temperature").input_value() == "1.25"
    page.keyboard.press("Escape")
    sent = ask(page, seen)
    assert (sent.temperature, sent.top_k) == (1.25, 9)


def test_where_nothing_is_kept_it_lasts_with_the_page(browser: Browser, address: str, seen: list[Request]) -> None:
    context = browser.new_context()
    refused = "{ get() { throw new DOMException('no', 'SecurityError'); } }"
    context.add_init_script(f"Object.defineProperty(window, 'localStorage', {refused})")
    page = context.new_page()
    page.goto(address)
    page.get_by_text("sft/d2").first.wait_for(state="attached")
    settings = opened(page)
    settings.get_by_label("Temperature").fill("0.15")
    settings.get_by_label("Name of a new preset").fill("Mine")
    settings.get_by_role("button", name="Save").click()
    settings.get_by_text("until the page is closed").wait_for()
    page.keyboard.press("Escape")
    assert ask(page, seen).temperature == 0.15
    context.close()


def test_on_a_narrow_window(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 700})
    settings = opened(page)
    for label in ("Temperature", "Seed", "System prompt", "Colours"):
        settings.get_by_label(label).scroll_into_view_if_needed()
        box = settings.get_by_label(label).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 700
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    settings.get_by_role("button", name="Done").click()
    assert settings.is_hidden()
