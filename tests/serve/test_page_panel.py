"""The panel of the chat page: how an answer comes, how much of the context it takes, and the card of its model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.inference import Engine, Request, Token
from nanochat.serve import Access, ModelInfo, create_app
from tests.serve.browsing import send
from tests.serve.empty_page import run, with_empty_page

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Locator, Page, Route

Served = Callable[[FastAPI], str]
OfRun = Callable[[str], FastAPI]
HOSTILE = '<img src=x onerror="window.owned=1"> <script>window.owned=1</script>'


def panel(page: Page) -> Locator:
    return page.get_by_role("complementary", name="Figures")


def open_panel(page: Page) -> None:
    page.get_by_role("button", name="Figures").click()
    panel(page).wait_for()


def figure(page: Page, name: str) -> str:
    return panel(page).locator("dl div", has=page.get_by_text(name, exact=True)).locator("dd").inner_text()


def write(page: Page, text: str) -> None:
    send(page, text)


def over(page: Page) -> None:
    page.get_by_role("button", name="Send").wait_for()


def word(text: str) -> Token:
    return Token(0, text, "text", 0)


def test_figures_while_it_speaks_and_afterwards(
    screen: Page, scripted: Any, info: ModelInfo, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    page, may_end = screen, threading.Event()

    def script(request: Request) -> Iterator[Token]:
        for _ in range(60):
            time.sleep(0.02)
            yield word("word ")
        may_end.wait(20)
        yield word("end")

    engine = scripted(script)
    page.goto(served(create_app(engine, info, access=Access())))
    open_panel(page)
    page.get_by_text("How fast the next answer comes is shown here.").wait_for()
    page.evaluate(
        """() => {
          window.times = [];
          const changed = () => { if (times.at(-1) !== performance.now()) times.push(performance.now()); };
          const figures = document.querySelector("#panel .figures");
          new MutationObserver(changed).observe(figures, { subtree: true, childList: true, characterData: true });
        }"""
    )
    write(page, "Hello")
    page.get_by_text("60 said").wait_for()
    prompt = len(engine.prompts[0])
    assert figure(page, "Speed").endswith(" tokens/s") and figure(page, "First token after").endswith(" s")
    assert figure(page, "Context used") == f"{prompt + 60} of 512 tokens"
    widths = [panel(page).locator(f".bar .{part}").evaluate("one => one.style.width") for part in ("prompt", "answer")]
    assert [float(width[:-1]) for width in widths] == pytest.approx([100 * prompt / 512, 100 * 60 / 512], rel=1e-3)
    may_end.set()
    over(page)
    page.get_by_text("61 said").wait_for()
    times = page.evaluate("times")
    assert 3 <= len(times) <= (times[-1] - times[0]) / 250 + 2  # ms: calmly
    # nothing of it is read aloud
    assert panel(page).locator("[aria-live], [role=status], [role=log], [role=alert]").count() == 0

    end = page.evaluate(
        """async () => {
          const opened = indexedDB.open("nanochat");
          await new Promise((resolve) => (opened.onsuccess = resolve));
          const all = opened.result.transaction("conversations").objectStore("conversations").getAll();
          await new Promise((resolve) => (all.onsuccess = resolve));
          return JSON.stringify(all.result);
        }"""
    )
    assert '"finish":"stop"' in end
    page.reload()  # what is kept of the answer tells the same
    page.get_by_label("Which model answers:").wait_for()
    if panel(page).is_hidden():
        open_panel(page)
    page.get_by_text("61 said").wait_for()
    assert figure(page, "First token after").endswith(" s") and figure(page, "Context used").startswith(
        f"{prompt + 61} of"
    )


def test_what_did_not_fit_is_said(screen: Page, of_run: OfRun, served: Served) -> None:
    page = screen
    page.goto(served(of_run("sft")))
    open_panel(page)
    panel(page).get_by_role("button", name="Close the panel").click()
    for question in ("Who lives at the river?", "And where is the ship?", "And what is made of tin there?"):
        write(page, question * 3)
        over(page)
    open_panel(page)
    panel(page).get_by_text("of this chat did not fit.").wait_for()


def test_the_card(screen: Page, of_run: OfRun, served: Served) -> None:
    page = screen
    page.goto(served(of_run("sft")))
    open_panel(page)
    card = panel(page).locator(".card")
    card.get_by_role("heading", name="sft/d1, step 4").wait_for()
    card.get_by_text("How it was trained").wait_for()
    assert figure(page, "Layers") == "1" and figure(page, "Context") == "128 tokens"
    assert figure(page, "Vocabulary") == "600 tokens" and figure(page, "Parameters") == "356 K"
    assert figure(page, "Data (base)").startswith("tiny world")
    link = panel(page).get_by_role("link", name="Watch it learn")
    assert link.get_attribute("href") == "/train"

    # of both, side by side
    panel(page).get_by_role("button", name="Close the panel").click()
    page.get_by_label("Which model answers:").click()
    page.get_by_role("button", name="Side by side").click()
    page.get_by_role("option").filter(has_text="base/d1, step 8").click()
    open_panel(page)
    card.get_by_role("heading", name="base/d1, step 8").wait_for()
    card.get_by_role("heading", name="sft/d1, step 4").wait_for()
    # A card that arrives moves what is below it, and a click that has been aimed already misses.
    page.wait_for_function("() => !document.body.innerText.includes('Its card is being read')")
    panel(page).get_by_role("link", name="Watch it learn").click()
    page.wait_for_url("**/train")


def test_opening_and_closing(screen: Page, of_run: OfRun, served: Served) -> None:
    page, wide = screen, screen.viewport_size is not None and screen.viewport_size["width"] > 960
    opener = page.get_by_role("button", name="Figures")
    page.goto(served(of_run("sft")))
    page.get_by_label("Which model answers:").wait_for()
    assert opener.get_attribute("aria-expanded") == "false" and panel(page).is_hidden()
    opener.focus()
    page.keyboard.press("Enter")
    panel(page).wait_for()
    assert opener.get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.activeElement.ariaLabel") == "Close the panel"
    box = panel(page).bounding_box()
    assert box and page.viewport_size
    if wide:  # beside the conversation
        assert page.locator("#page").bounding_box()["width"] + box["width"] <= page.viewport_size["width"]  # type: ignore[index]
    else:  # over it, and not all of it
        assert (box["x"], box["width"]) == (0, 390) and box["y"] > 100
    page.keyboard.press("Escape")
    panel(page).wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "panel-open"

    opener.click()
    page.reload()
    page.get_by_label("Which model answers:").wait_for()
    assert panel(page).is_visible() == wide  # a sheet does not come by itself


def test_a_hostile_card(screen: Page, of_run: OfRun, served: Served) -> None:
    page, cards = screen, list[Any]()

    def odd(route: Route) -> None:
        route.fulfill(json=cards[-1])

    page.route("**/page/card**", odd)
    cards.append(
        {
            "depth": HOSTILE, "parameters": -1, "window": 1e300, "vocab_size": None,
            "trained": [[HOSTILE, HOSTILE], ["a"], 5, None, ["n", 7], [{"x": 1}, ["y"]], ["\u202e" * 3, "w" * 3000]],
            "scores": {"not": "rows"},
        }
    )  # fmt: skip
    page.goto(served(of_run("sft")))
    open_panel(page)
    page.get_by_text("How it was trained").wait_for()
    assert figure(page, HOSTILE) == HOSTILE and figure(page, "n") == "7"
    assert panel(page).locator("img, script").count() == 0 and page.evaluate("window.owned") is None
    assert panel(page).get_by_text("Layers").count() == 0 and panel(page).get_by_text("What it scored").count() == 0
    page.evaluate("document.querySelector('#panel').scrollTop = 1e6")
    assert panel(page).evaluate("one => one.scrollWidth <= one.clientWidth")

    # one that cannot be read is said; what was known before stays
    panel(page).get_by_role("button", name="Close the panel").click()
    page.unroute("**/page/card**")
    page.route("**/page/card**", lambda route: route.fulfill(status=404, json={"detail": "there is no such card"}))
    page.get_by_label("Which model answers:").click()
    page.get_by_role("option").filter(has_text="mid/d1, step 4").click()
    open_panel(page)
    panel(page).get_by_text("there is no such card").wait_for()


def test_for_everybody_there_is_nothing_to_watch(
    screen: Page, engine: Engine, info: ModelInfo, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    screen.goto(served(create_app(engine, info)))
    screen.get_by_text("sft/d2, step 7, 2K parameters").wait_for()
    open_panel(screen)
    screen.get_by_role("heading", name="sft/d2, step 7").wait_for()
    figures = panel(screen).locator(".card dd")
    figures.first.wait_for()
    assert panel(screen).get_by_role("link", name="Watch it learn").is_hidden()


def test_the_pace_of_an_answer(browser: Any, app: FastAPI, served: Served) -> None:
    page = browser.new_page()
    page.goto(f"{served(with_empty_page(app))}/empty")
    run(
        page,
        """
        const { createPace } = await import("/static/chat/pace.js");
        const tokens = (n) => Array.from({ length: n }, () => [1, "a", "text", 0.5]);
        const at = (n, more = {}) => ({ id: "n", pending: "p", tokens: tokens(n), ...more });
        const start = { id: "p", begun: 0 };

        let pace = createPace();
        same(pace(at(0), true, 1000), { speed: null, first: null }, "nothing yet");
        same(pace(at(1, { start }), true, 1500), { speed: null, first: 0.5 }, "the first one");
        same(pace(at(11, { start }), true, 2500), { speed: 10, first: 0.5 }, "ten a second");
        same(pace(at(11, { start }), true, 9000), { speed: 10, first: 0.5 }, "nothing came");
        for (let n = 1; n <= 10; n++) pace(at(11 + n, { start }), true, 9000 + 1000 * n);
        const { speed } = pace(at(21, { start }), true, 19000);
        check(Math.abs(speed - 1) < 1e-9, `of the last seconds: ${speed}`);

        // taken up in the middle: when it began was not seen, and what came at once says nothing of its speed
        pace = createPace();
        same(pace(at(50, { start }), true, 0), { speed: null, first: null }, "taken up");
        same(pace(at(90, { start }), true, 1000), { speed: null, first: null }, "the rest at once");
        same(pace(at(95, { start }), true, 2000).speed, 5, "and then");

        // gone on with
        const next = { pending: "q", start: { id: "p", begun: 0 } };
        same(pace(at(95, next), true, 3000), { speed: null, first: null }, "another one");
        const goes = { ...next, start: { id: "q", begun: 95 } };
        same(pace(at(96, goes), true, 3250), { speed: null, first: 0.25 }, "its first");

        // what the server told in the end counts
        const ended = (end) => pace({ id: "n", end }, false);
        same(ended({ tokens: 11, seconds: 3, first: 1 }), { speed: 5, first: 1 }, "ended");
        same(ended({ tokens: 1, seconds: 3, first: 1 }), { speed: null, first: 1 }, "one token");
        same(ended({ tokens: 9, seconds: 1, first: 1 }), { speed: null, first: 1 }, "all at once");
        same(ended({ tokens: 0, seconds: 3, first: null }), { speed: null, first: null }, "none");
        same(ended(undefined), { speed: null, first: null }, "of a file");
        """,
    )
    page.close()
