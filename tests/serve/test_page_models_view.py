"""The picker of models on the chat page: what it lists, how it is used, and what becomes of a choice."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Engine
from nanochat.serve import Access, ModelInfo, create_app
from tests.serve.browsing import send

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page, Route

FIRST, SECOND = "Which model answers:", "Which model answers beside it:"
Served = Callable[[FastAPI], str]
OfRun = Callable[[str], FastAPI]


def ask(page: Page, text: str) -> None:
    page.get_by_label(FIRST).wait_for()
    send(page, text)
    page.get_by_role("button", name="Stop").wait_for(state="hidden")  # it is there as soon as the key was pressed


def body(request: Any) -> Any:
    return request.post_data_json


def options(page: Page) -> list[str]:
    return [option.inner_text().split("\n")[0] for option in page.get_by_role("option").all()]


def kept(page: Page) -> Any:
    return json.loads(page.evaluate("localStorage.getItem('nanochat-choice') ?? '{}'"))


def test_another_model_answers_and_is_remembered(screen: Page, of_run: OfRun, served: Served) -> None:
    page, address = screen, served(of_run("sft"))
    page.goto(address)
    ask(page, "Who are you?")
    assert page.get_by_text("Answered by").is_hidden()  # it is the one whose name stands above

    page.get_by_label(FIRST).click()
    assert options(page)[0].startswith("base/d1, step ") and "sft/d1, step 4" in options(page)
    assert page.get_by_role("listbox").get_by_role("group").first.get_attribute("aria-label") == "base: continues text"
    assert page.get_by_role("option", selected=True).inner_text().startswith("sft/d1, step 4")
    assert "the server's own" in page.get_by_role("option", selected=True).inner_text()
    steps = [int(name.split()[-1]) for name in options(page) if name.startswith("base")]
    assert steps == sorted(steps, reverse=True)
    page.get_by_role("option").filter(has_text="mid/d1, step 4").click()
    assert page.get_by_label(FIRST).inner_text().startswith("mid/d1, step 4")
    assert page.evaluate("document.activeElement.ariaLabel") == f"{FIRST} mid/d1, step 4"
    assert page.get_by_text("Answered by sft/d1, step 4").is_visible()  # the answer keeps who gave it

    with page.expect_request("**/page/answers") as asked:
        ask(page, "And you?")
    assert body(asked.value)["model"] == "mid/d1/4"
    assert page.get_by_text("Answered by").count() == 1

    page.reload()
    page.get_by_label(f"{FIRST} mid/d1, step 4").wait_for()
    page.get_by_text("Answered by sft/d1, step 4").wait_for()
    page.get_by_label(FIRST).click()
    assert "loaded" in page.get_by_role("option", selected=True).inner_text()


def test_by_keys(screen: Page, of_run: OfRun, served: Served) -> None:
    page = screen
    page.goto(served(of_run("sft")))
    page.get_by_label(FIRST).wait_for()
    page.get_by_label(FIRST).focus()
    page.keyboard.press("Enter")
    listbox = page.get_by_role("listbox")
    active = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).innerText"
    listbox.wait_for()
    page.wait_for_function("() => document.activeElement.role === 'listbox'")
    assert page.evaluate(active).startswith("sft/d1, step 4")  # begins at the one that answers
    page.keyboard.press("Home")
    assert page.evaluate(active).startswith("base/d1, step 20")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(active).startswith("base/d1, step 20")
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(active) == page.get_by_role("option").last.inner_text()
    page.keyboard.press("Escape")
    listbox.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.ariaLabel").startswith(FIRST)
    assert page.get_by_label(FIRST).inner_text().startswith("sft/d1, step 4")

    page.keyboard.press("Enter")
    page.wait_for_function("() => document.activeElement.role === 'listbox'")
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    listbox.wait_for(state="hidden")
    assert page.get_by_label(FIRST).inner_text().startswith("base/d1, step 20")
    page.get_by_role("heading", name="How does the text begin?").wait_for()  # a base model does not answer


def test_a_base_model_in_a_chat_is_told_apart(screen: Page, of_run: OfRun, served: Served) -> None:
    page = screen
    page.goto(served(of_run("sft")))
    ask(page, "Who are you?")
    page.get_by_label(FIRST).click()
    page.get_by_role("option").filter(has_text="base/d1, step 20").click()
    with page.expect_request("**/page/answers") as asked:
        ask(page, "The river")
    sent = body(asked.value)
    assert (sent["mode"], sent["text"], sent["messages"]) == ("text", "The river", [])
    page.get_by_text("base/d1, step 20 continues text: it got your question as a text to go on with.").wait_for()


def test_a_list_that_did_not_come_is_asked_for_again(screen: Page, of_run: OfRun, served: Served) -> None:
    page, asked = screen, []

    def once(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(body="a proxy says something")
        else:
            route.continue_()

    page.route("**/page/models", once)
    page.goto(served(of_run("sft")))
    page.get_by_text("sft/d1, step 4").first.wait_for()
    page.wait_for_function("() => document.querySelector('.fixed:not([hidden])')")
    page.evaluate("dispatchEvent(new Event('online'))")  # as after 20 seconds: the server is looked at again
    page.get_by_label(FIRST).wait_for()
    page.evaluate("dispatchEvent(new Event('online'))")
    page.evaluate("fetch('/health')")
    assert len(asked) == 2


def test_a_model_that_vanished(screen: Page, of_run: OfRun, served: Served) -> None:
    page, address = screen, served(of_run("sft"))
    page.goto(address)
    page.evaluate("""localStorage.setItem("nanochat-choice", '{"chosen": "sft/gone/1000", "second": "mid/d1/4"}')""")
    page.reload()
    page.get_by_text("sft/gone, step 1,000 is not to be had here any more. sft/d1, step 4 answers now.").wait_for()
    assert page.get_by_label(FIRST).inner_text().startswith("sft/d1, step 4")
    assert page.get_by_label(SECOND).inner_text().startswith("mid/d1, step 4")  # which is still there
    assert kept(page) == {"chosen": None, "second": "mid/d1/4", "panel": False}

    # one that goes while the page is open is told with the answer that it does not give
    page.evaluate("""localStorage.setItem("nanochat-choice", '{"chosen": "mid/d1/4"}')""")
    page.reload()
    page.get_by_label(f"{FIRST} mid/d1, step 4").wait_for()
    models = {"models": [], "picker": True}

    def without(route: Route) -> None:
        told = route.fetch().json()
        models["models"] = [one for one in told["models"] if one["id"] != "mid/d1/4"]
        route.fulfill(json=models)

    page.route("**/page/models", without)
    page.route("**/page/answers", lambda route: route.fulfill(status=404, json={"detail": "there is no checkpoint"}))
    send(page, "Hello?")
    page.get_by_text("there is no checkpoint").wait_for()
    page.get_by_text("mid/d1, step 4 is not to be had here any more. sft/d1, step 4 answers now.").wait_for()
    page.unroute("**/page/answers")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("button", name="Later version").wait_for()
    page.get_by_role("button", name="Stop").wait_for(state="hidden")


def test_an_odd_memory_is_none(screen: Page, of_run: OfRun, served: Served) -> None:
    page = screen
    page.goto(served(of_run("sft")))
    for stored in ["{", "[]", "null", '{"chosen": 5, "second": {}, "panel": "x"}', '"x"']:
        page.evaluate("(text) => localStorage.setItem('nanochat-choice', text)", stored)
        page.reload()
        page.get_by_label(f"{FIRST} sft/d1, step 4").wait_for()
        assert page.get_by_role("complementary", name="Figures").is_hidden()


def test_without_a_choice_the_name_alone_stands_there(
    screen: Page, engine: Engine, info: ModelInfo, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    screen.goto(served(create_app(engine, info)))  # for everybody, so that only the own model can be used
    screen.get_by_text("sft/d2, step 7, 2K parameters").wait_for()
    assert screen.get_by_label(FIRST).is_hidden()

    screen.goto(served(create_app(engine, info, access=Access())))  # which is not on the disk
    screen.get_by_label(FIRST).click()
    assert screen.get_by_role("option").inner_text().split("\n") == ["sft/d2, step 7", "the server's own"]
    assert screen.get_by_role("button", name="Side by side").is_hidden()


HOSTILE = '<img src=x onerror="window.owned=1"> <script>window.owned=1</script>'
ODD: list[Any] = [
    None, 5, "x", [], {},
    {"id": 5, "stage": "sft", "tag": "a", "step": 1},
    {"id": "", "stage": "sft", "tag": "a", "step": 1},
    {"id": "sft/nan/1", "stage": "sft", "tag": "nan", "step": "1"},
    {"id": "sft/d2/-1", "stage": "sft", "tag": "x", "step": -1},
    {"id": f"sft/{HOSTILE}/12345678", "stage": "sft", "tag": HOSTILE, "step": 12345678, "bytes": "many"},
    {"id": "rl/\u202eevil\u0000/1", "stage": "rl", "tag": "\u202eevil\u0000", "step": 1, "bytes": 1e300, "written": -5},
    {"id": "__proto__", "stage": "__proto__", "tag": "constructor", "step": 1, "written": 1e14, "bytes": 0},
    {"id": "base/" + "w" * 5000 + "/1", "stage": "base", "tag": "w" * 5000, "step": 1, "chat": False},
]  # fmt: skip


def test_a_hostile_list(screen: Page, of_run: OfRun, served: Served) -> None:
    page = screen

    def odd(route: Route) -> None:
        told = route.fetch().json()
        route.fulfill(json={"models": ODD + told["models"] * 2, "picker": True})

    page.route("**/page/models", odd)
    page.goto(served(of_run("sft")))
    page.get_by_label(FIRST).click()
    names = options(page)
    assert len(names) == len(set(names)) == 4 + 7
    assert f"sft/{HOSTILE}, step 12,345,678" in names
    page.get_by_role("option").filter(has_text="onerror").click()
    assert HOSTILE in page.get_by_label(FIRST).inner_text()
    page.get_by_label(FIRST).click()
    page.get_by_role("combobox").fill("wwww")
    assert page.get_by_role("option").count() == 1
    page.keyboard.press("Enter")
    assert page.get_by_label(FIRST).inner_text().startswith("base/www")
    assert page.evaluate("window.owned") is None
    assert page.locator(".models img, .models script, #model img, #model script").count() == 0


def test_a_long_list_is_searched(screen: Page, of_run: OfRun, served: Served) -> None:
    page = screen
    many = [
        {
            "id": f"sft/d{tag}/{step}",
            "stage": "sft",
            "tag": f"d{tag}",
            "step": step,
            "bytes": 1,
            "written": tag,
            "chat": True,
        }
        for tag in range(30)
        for step in range(10, 400, 10)
    ]
    extra: list[dict[str, Any]] = []

    def listed(route: Route) -> None:
        told = route.fetch().json()
        route.fulfill(json={"models": [*told["models"], *many, *extra], "picker": True})

    page.route("**/page/models", listed)
    page.goto(served(of_run("sft")))
    page.get_by_label(FIRST).click()
    search = page.get_by_role("combobox", name="Search the checkpoints")
    page.wait_for_function("() => document.activeElement.role === 'combobox'")
    assert page.get_by_role("option").count() == 200
    hidden = len(many) + 7 - 200
    page.get_by_text(f"{hidden:,} more: search for them.").wait_for()
    search.press_sequentially("d7 390")
    assert options(page) == ["sft/d7, step 390"]
    search.fill("nothing like it")
    page.get_by_text("There is none of this name.").wait_for()
    assert page.get_by_role("listbox").is_hidden()
    page.keyboard.press("Enter")
    assert search.is_visible()  # nothing was chosen
    search.fill("sft/d12, step 3")  # as it is shown
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.get_by_label(FIRST).inner_text().startswith("sft/d12, step 380")

    # a step that was trained meanwhile is there when the list is opened
    extra.append(
        {"id": "sft/d9/1000", "stage": "sft", "tag": "d9", "step": 1000, "bytes": 1, "written": 9, "chat": True}
    )
    page.get_by_label(FIRST).click()
    search.fill("d9 1,000")
    page.get_by_role("option").filter(has_text="sft/d9, step 1,000").wait_for()
