"""Side by side: one question, two models, two answers, of which one is gone on from."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI

from nanochat.console import UserError
from nanochat.inference import Request, Token
from nanochat.serve import Access, ModelInfo, create_app
from nanochat.serve.page import models
from tests.serve.browsing import send
from tests.serve.empty_page import run, with_empty_page

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Locator, Page

Served = Callable[[FastAPI], str]
OfRun = Callable[[str], FastAPI]
FIRST, SECOND = "Which model answers:", "Which model answers beside it:"


def beside(page: Page, name: str) -> None:
    page.get_by_label(FIRST).click()
    page.get_by_role("button", name="Side by side").click()
    page.get_by_role("option").filter(has_text=name).click()
    page.get_by_label(f"{SECOND} {name}").wait_for()


def write(page: Page, text: str) -> None:
    send(page, text)


def over(page: Page) -> None:
    page.get_by_role("button", name="Send").wait_for()


def column(page: Page, name: str) -> Locator:
    return page.locator(".compare .column", has=page.get_by_role("heading", name=name))


def sent(page: Page, bodies: dict[str, list[Any]]) -> None:
    """What is asked of which model: which one is asked first is left to chance."""

    def note(request: Any) -> None:
        if request.url.endswith("/page/answers"):
            body = request.post_data_json
            bodies.setdefault(body["model"] or "own", []).append(body)

    page.on("request", note)


def word(text: str) -> Token:
    return Token(0, text, "text", 0)


def test_both_answer_and_one_is_gone_on_from(screen: Page, of_run: OfRun, served: Served) -> None:
    page, bodies = screen, dict[str, list[Any]]()
    sent(page, bodies)
    page.goto(served(of_run("sft")))
    beside(page, "base/d1, step 20")
    write(page, "Where does Mira Bell live?")
    over(page)
    sft, base = column(page, "sft/d1, step 4"), column(page, "base/d1, step 20")
    [[own], [other]] = bodies["own"], bodies["base/d1/20"]
    assert (own["mode"], own["text"]) == ("chat", "")
    assert (other["mode"], other["text"], other["messages"]) == ("text", "Where does Mira Bell live?", [])
    assert base.get_by_text("This model continues text: it got your question as a text to go on with.").is_visible()
    assert sft.get_by_text("This model continues text").is_hidden()
    for one in (sft, base):
        one.get_by_text("first token after").wait_for()
    left, right = sft.bounding_box(), base.bounding_box()
    assert left and right
    if page.viewport_size and page.viewport_size["width"] > 960:
        assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    else:
        assert left["x"] == right["x"] and left["y"] + left["height"] < right["y"]

    # the other one is gone on from
    goes_on = page.get_by_role("button", name="Go on from this one")
    assert [goes_on.nth(n).get_attribute("aria-pressed") for n in (0, 1)] == ["true", "false"]
    goes_on.nth(1).click()
    assert [goes_on.nth(n).get_attribute("aria-pressed") for n in (0, 1)] == ["false", "true"]
    assert column(page, "sft/d1, step 4").is_visible()  # and both stay in sight
    words = base.locator(".body").inner_text().strip()
    write(page, "And then?")
    over(page)
    messages = bodies["own"][1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert "".join(messages[1]["content"].split()) == "".join(words.split())
    assert bodies["base/d1/20"][1]["text"] == "And then?"
    assert page.locator(".compare").count() == 2

    # an earlier turn can be gone on from in the other way, and back
    goes_on.first.click()
    assert page.locator(".compare").count() == 1
    goes_on.nth(1).click()
    page.locator(".compare").nth(1).wait_for()

    # both are alternatives once one leaves, and after a reload
    page.get_by_label(SECOND).click()
    page.get_by_role("button", name="Leave side by side").click()
    page.locator(".compare").first.wait_for(state="detached")
    assert page.get_by_label(SECOND).is_hidden()
    assert page.evaluate("document.activeElement.ariaLabel").startswith(FIRST)
    page.reload()
    page.get_by_text("And then?").wait_for()
    first = page.locator(".message.assistant").first
    assert first.get_by_text("2/2").is_visible()
    assert "base/d1, step 20 continues text" in first.inner_text()
    first.get_by_role("button", name="Earlier version").click()
    page.locator(".message.assistant").first.get_by_text("1/2").wait_for()
    assert page.locator(".message").count() == 2


@pytest.fixture
def two(
    scripted: Any, info: ModelInfo, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Request], Iterator[Token]], Callable[[Request], Iterator[Token]]], tuple[FastAPI, Any, Any]]:
    """An app in which the own model says the one script, and whatever is loaded the other."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tiny_run))

    def make(own: Any, other: Any) -> tuple[FastAPI, Any, Any]:
        one, two = scripted(own), scripted(other)
        monkeypatch.setattr(models, "engine_of", lambda *_: two)
        return create_app(one, info, access=Access()), one, two

    return make


class Held:
    """Says a word, and the other when it may."""

    def __init__(self, first: str, second: str) -> None:
        self.words = first, second
        self.may_go_on = threading.Event()

    def __call__(self, request: Request) -> Iterator[Token]:
        yield word(self.words[0])
        self.may_go_on.wait(20)
        yield word(self.words[1])


def test_they_do_not_wait_for_each_other_and_stop_together(screen: Page, two: Any, served: Served) -> None:
    page, slow, quick = screen, Held("Alpha ", "more"), Held("Beta ", "words")
    quick.may_go_on.set()
    app, one, _ = two(slow, quick)
    page.goto(served(app))
    beside(page, "mid/d1, step 4")
    write(page, "Hello")
    page.get_by_text("Beta words").wait_for()
    page.get_by_text("Alpha").wait_for()
    assert page.get_by_role("button", name="Stop").is_visible()
    slow.may_go_on.set()
    page.get_by_text("Alpha more").wait_for()
    over(page)

    slow.may_go_on.clear()
    quick.may_go_on.clear()
    write(page, "And now?")
    page.locator(".compare").nth(1).get_by_text("Beta").wait_for()
    page.locator(".compare").nth(1).get_by_text("Alpha").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").nth(1).wait_for()
    slow.may_go_on.set()
    quick.may_go_on.set()
    over(page)
    assert page.get_by_text("Stopped.").count() == 2
    assert one.ended.wait(10) and "more" not in page.locator(".compare").nth(1).inner_text()


@pytest.mark.slow
def test_they_are_taken_up_again(screen: Page, two: Any, served: Served) -> None:
    page, first, second = screen, Held("Alpha ", "more"), Held("Beta ", "words")
    app, _, _ = two(first, second)
    page.goto(served(app))
    beside(page, "mid/d1, step 4")
    write(page, "Hello")
    page.get_by_text("Beta").wait_for()
    page.get_by_text("Alpha", exact=True).wait_for()
    page.reload()
    page.locator(".compare").get_by_text("Alpha", exact=True).wait_for()
    first.may_go_on.set()
    second.may_go_on.set()
    page.get_by_text("Alpha more").wait_for()
    page.get_by_text("Beta words").wait_for()
    over(page)


@pytest.mark.slow
def test_one_fails_and_the_other_does_not_mind(screen: Page, two: Any, served: Served) -> None:
    page, bodies = screen, dict[str, list[Any]]()

    def fails(request: Request) -> Iterator[Token]:
        if len(one.prompts) == 1:
            raise UserError("its weights are no numbers")
        yield word("now it does")

    def answers(request: Request) -> Iterator[Token]:
        yield word(f"answer {len(other.prompts)}")

    app, one, other = two(fails, answers)
    sent(page, bodies)
    page.goto(served(app))
    beside(page, "mid/d1, step 4")
    write(page, "Hello")
    page.get_by_text("answer 1").wait_for()
    page.get_by_text("its weights are no numbers").wait_for()
    over(page)

    # it is tried again in its column, and only there
    column(page, "sft/d2, step 7").get_by_role("button", name="Try again").click()
    page.get_by_text("now it does").wait_for()
    over(page)
    assert column(page, "sft/d2, step 7").get_by_text("2/2").is_visible()
    assert len(other.prompts) == 1 and page.locator(".compare").count() == 1
    column(page, "mid/d1, step 4").get_by_role("button", name="Try again").click()
    page.get_by_text("answer 2").wait_for()
    over(page)
    goes_on = page.get_by_role("button", name="Go on from this one")
    assert goes_on.first.get_attribute("aria-pressed") == "true"  # still, since the other one was only tried again

    # one that said nothing is not gone on from
    column(page, "sft/d2, step 7").get_by_role("button", name="Earlier version").click()
    page.get_by_text("its weights are no numbers").wait_for()
    write(page, "And now?")
    over(page)
    assert [message["content"] for message in bodies["own"][-1]["messages"]] == ["Hello", "answer 2", "And now?"]
    assert page.locator(".compare").count() == 2


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded(screen: Page, two: Any, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: Any) -> Any:
        raise UserError("its files are damaged")

    page = screen
    app, _, _ = two(lambda _: iter([word("fine")]), None)
    monkeypatch.setattr(models, "engine_of", damaged)
    page.goto(served(app))
    beside(page, "mid/d1, step 4")
    write(page, "Hello")
    over(page)
    assert column(page, "sft/d2, step 7").get_by_text("fine").is_visible()
    assert column(page, "mid/d1, step 4").get_by_text("its files are damaged").is_visible()
    assert page.get_by_label(SECOND).inner_text().startswith("mid/d1, step 4")  # it may go better next time


@pytest.mark.slow
def test_models_change_places(screen: Page, of_run: OfRun, served: Served) -> None:
    page, bodies = screen, dict[str, list[Any]]()
    sent(page, bodies)
    page.goto(served(of_run("sft")))
    beside(page, "mid/d1, step 4")
    page.get_by_label(FIRST).click()
    page.get_by_role("option").filter(has_text="mid/d1, step 4").click()
    page.get_by_label(f"{FIRST} mid/d1, step 4").wait_for()
    page.get_by_label(f"{SECOND} sft/d1, step 4").wait_for()
    write(page, "Hello")
    over(page)
    assert list(map(len, bodies.values())) == [1, 1] and bodies.keys() == {"mid/d1/4", "sft/d1/4"}
    page.get_by_label(SECOND).click()
    names = page.get_by_role("option").all_inner_texts()
    assert not [name for name in names if name.startswith("mid/d1, step 4")]
    (earlier,) = [found[0] for name in names if (found := re.match(r"mid/d1, step \d", name))]  # 3, or 2 on a slow disk
    page.get_by_role("option").filter(has_text=earlier).click()
    page.get_by_label(f"{SECOND} {earlier}").wait_for()
    assert column(page, "sft/d1, step 4").is_visible()  # what was answered stays as it was answered


@pytest.mark.slow
def test_two_base_models_go_on_with_a_text(screen: Page, of_run: OfRun, served: Served) -> None:
    page, bodies = screen, dict[str, list[Any]]()
    sent(page, bodies)
    page.goto(served(of_run("base")))
    page.get_by_label(FIRST).wait_for()
    write(page, "The river Dun is")
    page.get_by_role("button", name="Stop").wait_for(state="hidden")
    beside(page, "base/d1, step 8")
    page.get_by_role("button", name="Continue", exact=True).last.click()
    page.locator(".compare").wait_for()
    page.get_by_role("button", name="Stop").wait_for(state="hidden")
    one, other = bodies["own"][1], bodies["base/d1/8"][0]
    assert one["mode"] == other["mode"] == "text"
    assert one["text"] == other["text"] and one["text"].startswith("The river Dun is")
    said = column(page, "base/d1, step 8").locator(".body").text_content() or ""
    before = page.get_by_role("article", name="The text").locator(".body").text_content() or ""
    page.get_by_role("button", name="Go on from this one").nth(1).click()
    page.get_by_label(SECOND).click()
    page.get_by_role("button", name="Leave side by side").click()
    page.locator(".compare").wait_for(state="detached")
    whole = page.get_by_role("article", name="The text").locator(".body").text_content() or ""
    assert "".join(whole.split()) == "".join((before + said).split())


def test_odd_pairs_are_none(browser: Any, app: FastAPI, served: Served) -> None:
    page = browser.new_page()
    page.goto(f"{served(with_empty_page(app))}/empty")
    run(
        page,
        """
        const { sidesOf, besidePair, pairOf } = await import("/static/chat/pair.js");
        const node = (id, pair, time) => ({ id, parent: null, role: "assistant", parts: [], time, pair });
        const of = (...pairs) => {
          const nodes = pairs.map((pair, at) => node(`n${at}`, pair, at));
          return { nodes: Object.fromEntries(nodes.map((one) => [one.id, one])), leaf: "n0" };
        };
        for (const odd of [undefined, null, "x", [], {}, { id: 5, side: 0 }, { id: "p", side: 2 }, { id: "p" }]) {
          const c = of(odd, { id: "p", side: 1 });
          check(pairOf(c.nodes.n0) === null && sidesOf(c, c.nodes.n0) === null, "it is none");
          same(besidePair(c, c.nodes.n0).map((one) => one.id), ["n0", "n1"], "beside");
        }
        const lonely = of({ id: "p", side: 0 }, { id: "q", side: 1 });
        check(sidesOf(lonely, lonely.nodes.n0) === null, "one side alone");
        const pair = (id, side) => ({ id, side });
        const c = of(pair("p", 0), pair("p", 1), null, pair("p", 1), pair("q", 1), pair("q", 0));
        same(sidesOf(c, c.nodes.n1).map((side) => side.map((one) => one.id)), [["n0"], ["n1", "n3"]], "sides");
        same(besidePair(c, c.nodes.n3).map((one) => one.id), ["n2", "n3", "n4"], "one of each");
        """,
    )
    page.close()


@pytest.mark.slow
def test_another_token_is_chosen_in_one_column(screen: Page, of_run: OfRun, served: Served) -> None:
    page, bodies = screen, dict[str, list[Any]]()
    sent(page, bodies)
    page.goto(served(of_run("sft")))
    beside(page, "base/d1, step 20")
    write(page, "Where does Mira Bell live?")
    over(page)
    base = column(page, "base/d1, step 20")
    base.get_by_role("button", name="Look inside").click()
    dialog = page.get_by_role("dialog", name="Look inside")
    dialog.locator(".token").first.click()
    dialog.locator(".alternatives button:not(:disabled)").first.click()
    base.get_by_text("2/2").wait_for()
    over(page)
    first, second = bodies["base/d1/20"]
    assert list(map(len, bodies.values())) == [1, 2] or list(map(len, bodies.values())) == [2, 1]
    assert len(second["begun"]) == 1 and (second["mode"], second["text"]) == ("text", first["text"])
    goes_on = page.get_by_role("button", name="Go on from this one")
    assert goes_on.first.get_attribute("aria-pressed") == "true"  # the other column is what is followed, as before
