"""What the chat page says when something is in the way: the server, the queue, the context, the message, the key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Engine, Request, Token
from nanochat.serve import Access, ModelInfo, create_app
from tests.serve.browsing import BOTH, looked_at, send
from tests.serve.wire import Wire

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

Served = Callable[[FastAPI], str]
QUESTION = "What would you like to know?"


DESKTOP = (1000, 760)
on_both = pytest.mark.parametrize("page", BOTH, indirect=True)


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    """Where no script may fail, while requests may."""
    with looked_at(browser, getattr(request, "param", DESKTOP), "Failed to load resource") as page:
        yield page


def word(text: str, kind: Any = "text") -> Token:
    return Token(0, text, kind, 0)


def message(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def go(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_text(QUESTION).wait_for()


def ask(page: Page, text: str = "talk") -> None:
    send(page, text)


def answer(page: Page) -> Locator:
    return page.locator(".message.assistant").last


def yes(request: Request) -> list[Token]:
    return [word("yes")]


@on_both
def test_the_server_goes_and_comes_back(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    wire = Wire(served(create_app(scripted(yes), info)))
    go(page, wire.address)
    ask(page, "before")
    answer(page).get_by_text("yes").wait_for()
    wire.cut()
    page.evaluate("dispatchEvent(new Event('offline'))")  # it is looked at once
    page.get_by_text("The server cannot be reached.").wait_for()
    message(page).fill("kept")
    assert page.get_by_role("button", name="Send").is_disabled()
    page.keyboard.press("Enter")
    assert message(page).input_value() == "kept"
    assert page.locator(".message").count() == 2
    assert page.get_by_role("button", name="Try again").is_visible()

    wire.mend()
    page.get_by_text("The server cannot be reached.").wait_for(state="detached")  # by itself
    page.get_by_role("button", name="Send").click()
    page.locator(".message").nth(3).get_by_text("yes").wait_for()
    wire.close()


def refusing(times: int, status: int, after: str | None, detail: str) -> Callable[[Route], None]:
    """Refuses the first questions, and lets the server answer the others."""
    left = [times]

    def handle(route: Route) -> None:
        if route.request.method != "POST" or left[0] == 0:
            route.continue_()
            return
        left[0] -= 1
        headers = {"Retry-After": after} if after else {}
        route.fulfill(status=status, headers=headers, json={"detail": detail})

    return handle


def test_the_queue_is_full(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    page.route("**/page/answers", refusing(2, 429, "1", "too many requests are waiting, try again soon"))
    go(page, served(create_app(scripted(yes), info)))
    ask(page)
    answer(page).get_by_text("Too many are asking at once. This page asks again by itself at").wait_for()
    answer(page).get_by_text("yes").wait_for()  # in two seconds
    assert page.locator(".message .note").count() == 0


@pytest.mark.slow
@on_both
def test_the_queue_is_full_and_one_does_not_wait(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    page.route("**/page/answers", refusing(2, 429, "600", "too many requests are waiting, try again soon"))
    go(page, served(create_app(scripted(yes), info)))
    ask(page)
    page.get_by_role("button", name="Try now").click()
    page.get_by_role("button", name="Try now").wait_for()
    page.keyboard.press("Escape")  # or does not ask at all
    answer(page).get_by_text("Stopped.").wait_for()
    page.get_by_role("button", name="Try again").click()
    answer(page).get_by_text("yes").wait_for()


def test_the_server_is_ending(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    page.route("**/page/answers", refusing(1, 503, "1", "the server is ending"))
    go(page, served(create_app(scripted(yes), info)))
    ask(page)
    answer(page).get_by_text("The server is ending. This page asks again").wait_for()
    answer(page).get_by_text("yes").wait_for()


def test_a_model_finds_no_room(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    page.route("**/page/answers", refusing(1, 503, None, "there is no memory for sft/d26/1"))
    go(page, served(create_app(scripted(yes), info)))
    ask(page)
    answer(page).get_by_text("there is no memory for sft/d26/1").wait_for()  # waiting would not help
    page.get_by_role("button", name="Try again").click()
    answer(page).get_by_text("yes").wait_for()
    assert page.get_by_text("2/2").is_visible()


def test_a_question_without_an_answer_is_replaced(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    page.route("**/page/answers", refusing(1, 503, None, "there is no memory for sft/d26/1"))
    engine = scripted(yes)
    go(page, served(create_app(engine, info)))
    ask(page, "first")
    answer(page).get_by_text("there is no memory").wait_for()
    ask(page, "second")
    answer(page).get_by_text("yes").wait_for()
    assert page.locator(".message.user .body").all_inner_texts() == ["second"]
    assert "first" not in engine.tokenizer.decode(engine.prompts[-1])
    page.locator(".message.user").get_by_role("button", name="Earlier version").click()
    page.get_by_text("there is no memory").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\x00 not a stream \n\n",
        b'data: {"tokens": [[1, "half',
        b'data: [1, 2]\n\ndata: null\n\ndata: {"start": 3, "tokens": {"a": 1}, "end": "never"}\n\n',
        b'data: {"tokens": [[1e999, "a", "text", 1], ["x", {}, "y", []], null, [5, "ok", "text", 7]]}\n\n',
        json.dumps({"state": "on fire", "start": {"id": None, "window": -1, "begun": "many"}}).encode(),
    ],
)
def test_odd_answers_of_a_server(body: bytes, page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    """They end as a lost connection does, and the page lives."""

    def handle(route: Route) -> None:
        if route.request.method == "POST":
            route.fulfill(status=200, headers={"content-type": "text/event-stream"}, body=body)
        else:
            route.fulfill(status=404, json={"detail": ["what?"]})

    page.route("**/page/answers**", handle)
    page.route("**/page/answers/**", handle)
    go(page, served(create_app(scripted(yes), info)))
    ask(page)
    page.locator(".message.assistant .note, .message.streaming").first.wait_for()
    page.unroute_all()
    page.locator(".message.assistant .note.bad, .message.assistant .body :text('yes')").first.wait_for()
    page.get_by_role("button", name="Try again").click()
    answer(page).get_by_text("yes").wait_for()


def test_odd_tokens_are_text(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    events = [
        {"start": {"id": "x", "model": "<b>m</b>", "chat": True, "begun": 0, "left_out": "<i>", "seed": "1"}},
        {
            "tokens": [
                [1, "<img src=x onerror=alert(1)>", "text", 0.5],
                [2, "<script>alert(2)</script>", "python", None],
            ]
        },
        {"end": {"finish": "exploded", "error": "<b>bad</b>", "tokens": "many", "seconds": None, "first": "x"}},
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    headers = {"content-type": "text/event-stream"}
    page.route("**/page/answers", lambda route: route.fulfill(status=200, headers=headers, body=body))
    go(page, served(create_app(scripted(yes), info)))
    ask(page)
    answer(page).get_by_text("<b>bad</b>").wait_for()
    assert "<img src=x onerror=alert(1)>" in answer(page).inner_text()
    assert page.locator(".message img, .message script, .message b").count() == 0


def test_an_answer_without_an_end(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    many = "data: " + json.dumps({"tokens": [[1, "on ", "text", 0.5]] * 1000}) + "\n\n"
    headers = {"content-type": "text/event-stream"}
    page.route("**/page/answers", lambda route: route.fulfill(status=200, headers=headers, body=many * 30))
    go(page, served(create_app(scripted(yes), info)))
    ask(page)
    answer(page).get_by_text("The server did not come to an end.").wait_for()
    assert 0 < answer(page).locator(".body").inner_text().count("on") <= 20_000


@on_both
def test_the_context_is_full(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    go(page, served(create_app(scripted(lambda request: [word("well, ")] * 40), info)))
    for turn in range(3):
        ask(page, f"{turn} " + "how many letters " * 12)
        page.locator(".message").nth(2 * turn + 1).get_by_text("well").wait_for()
        page.locator(".message.streaming").wait_for(state="detached")
    answer(page).get_by_text("The context is full: the first").wait_for()


@on_both
def test_a_long_message(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    prompts: list[int] = []

    def script(request: Request) -> list[Token]:
        prompts.append(len(request.prompt))
        return [word("yes")]

    go(page, served(create_app(scripted(script), info)))
    message(page).fill("xyz " * 500)
    page.get_by_text("and the model sees 512, its answer included").wait_for()
    page.keyboard.press("Enter")
    answer(page).get_by_text("of it were left out").wait_for()
    assert prompts[0] < 512

    message(page).fill("x" * 9000)
    page.get_by_text("This has 9,000 characters, and a message may have 8,000").wait_for()
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="Send").is_disabled()
    assert len(message(page).input_value()) == 9000  # nothing is cut
    assert len(prompts) == 1
    message(page).fill("short")
    page.get_by_text("a message may have").wait_for(state="detached")


def test_a_conversation_longer_than_the_server_takes(
    page: Page, scripted: Any, info: ModelInfo, served: Served
) -> None:
    engine = scripted(yes)
    go(page, served(create_app(engine, info)))
    for turn in range(6):
        ask(page, f"{turn} " + "x" * 7000)
        page.locator(".message").nth(2 * turn + 1).get_by_text("yes").wait_for()
        page.locator(".message.streaming").wait_for(state="detached")
    answer(page).get_by_text("of this chat were left out").wait_for()
    assert page.locator(".message .note.bad").count() == 0


def test_nothing_to_send(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    go(page, served(create_app(scripted(yes), info)))
    for text in ("", "   ", "\n\n"):
        message(page).fill(text)
        page.keyboard.press("Enter")
        assert page.get_by_role("button", name="Send").is_disabled()
    assert page.locator(".message").count() == 0
    assert page.get_by_text(QUESTION).is_visible()


def test_the_model_says_nothing(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    go(page, served(create_app(scripted(lambda request: []), info)))
    ask(page)
    page.get_by_text("The model had nothing to say.").wait_for()


def test_the_longest_answer(page: Page, engine: Engine, info: ModelInfo, served: Served) -> None:
    """Of a model that never ends; it goes on when it is asked to, from where it was."""
    page.add_init_script("localStorage.setItem('nanochat-settings', '{\"max_tokens\": 8}')")
    go(page, served(create_app(engine, info)))
    ask(page)
    answer(page).get_by_text("It reached the longest answer").wait_for()
    before = len(answer(page).locator(".body").inner_text())
    page.get_by_role("button", name="Continue").click()
    page.wait_for_function(
        "before => [...document.querySelectorAll('.message.assistant .body')].at(-1).innerText.length > before",
        arg=before,
    )  # eight tokens may have come and gone before anybody looks
    page.locator(".message.streaming").wait_for(state="detached")
    assert page.locator(".message").count() == 2


@on_both
def test_logged_out(page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    address = served(create_app(scripted(yes), info, access=Access("key")))
    page.goto(f"{address}/login?key=key")
    page.get_by_text(QUESTION).wait_for()
    page.locator("#model").get_by_text("sft/d2").locator("visible=true").first.wait_for()
    page.context.clear_cookies()
    ask(page)
    answer(page).get_by_text("You are not logged in any more.").wait_for()
    page.locator("#banner").get_by_role("link", name="Log in").click()
    page.get_by_label("The key of this server").fill("key")
    page.get_by_role("button", name="Log in").click()
    page.get_by_text(QUESTION).wait_for()


@pytest.mark.parametrize("by_hand", [True, False])
def test_logging_in(by_hand: bool, page: Page, scripted: Any, info: ModelInfo, served: Served) -> None:
    address = served(create_app(scripted(yes), info, access=Access("k+e/y&=%")))
    if by_hand:
        page.goto(address)
        page.get_by_label("The key of this server").fill("k+e/y&=%")
        page.get_by_role("button", name="Log in").click()
    else:
        page.goto(f"{address}/login?key=k%2Be%2Fy%26%3D%25")
    page.get_by_text(QUESTION).wait_for()
    page.locator("#model").get_by_text("sft/d2").locator("visible=true").first.wait_for()
    assert page.url == f"{address}/"
    ask(page)
    answer(page).get_by_text("yes").wait_for()
    assert page.evaluate("document.cookie") == ""  # no script can read it


@on_both
def test_a_base_model_continues_a_text(page: Page, scripted: Any, served: Served) -> None:
    texts: list[str] = []
    said = iter([" went home", " and slept", " by train", ", the end"])

    def script(request: Request) -> list[Token]:
        texts.append(engine.tokenizer.decode(request.prompt))
        return [word(next(said))]

    engine = scripted(script)
    page.goto(served(create_app(engine, ModelInfo("base", "d2", 7, 1234))))
    page.get_by_text("This is a base model").wait_for()
    message(page).fill("The dog")
    page.get_by_role("button", name="Continue").click()
    text = page.get_by_label("The text")
    text.get_by_text("went home").wait_for()
    assert texts[-1].endswith("The dog")
    assert "<|user_start|>" not in texts[-1]

    page.keyboard.press("Enter")  # nothing is added: it goes on by itself
    text.get_by_text("and slept").wait_for()
    assert " ".join(text.locator(".body").inner_text().split()) == "The dog went home and slept"

    text.get_by_role("button", name="Edit").click()
    page.get_by_label("Your message").fill("The cat went home")
    page.get_by_role("button", name="Continue from here").click()
    text.get_by_text("by train").wait_for()
    assert texts[-1].endswith("The cat went home")

    ask(page, "at night")
    text.get_by_text(", the end").wait_for()
    assert texts[-1].endswith("The cat went home by train at night")
