"""Looking inside an answer: the same as `nanochat look` shows, bounded; and the page's views in a real browser."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat import checkpoint
from nanochat.commands import look
from nanochat.conversation import Conversation
from nanochat.inference import Engine, fit_conversation, load_engine
from nanochat.inference.looking import look_inside
from nanochat.serve import Access, Defaults, ModelInfo, create_app
from nanochat.serve.page import look as page_look
from nanochat.tokenizer import render_conversation, render_partial
from tests.serve.browsing import BOTH, looked_at, named, send
from tests.serve.empty_page import run, with_empty_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

QUESTION = "Who are you?"
ASK = [{"role": "user", "content": QUESTION}]


@pytest.fixture
def client(engine: Engine, info: ModelInfo) -> TestClient:
    return TestClient(create_app(engine, info, access=Access()), base_url="http://localhost")


def said(messages: list[dict[str, Any]], system: str = "") -> Conversation:
    first = [{"role": "system", "content": system}] if system else []
    return Conversation.from_dict({"messages": [*first, *messages]})


def at(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/page/look", json={"messages": ASK, **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def by_command(tmp_path: Path, *args: str, **settings: Any) -> dict[str, Any]:
    file = tmp_path / "look.json"
    settings = {"model_tag": "d1", "json": (str(file),), "device": "cpu", "dtype": "float32", **settings}
    look.run(look.Config(text=args, **settings))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def without(told: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in names}


def test_it_is_what_the_command_shows(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tiny_run))
    engine, manifest = load_engine("sft", "d1", device="cpu", dtype="float32")
    info = ModelInfo("sft", "d1", manifest.step, 1)
    client = TestClient(create_app(engine, info, access=Access()), base_url="http://localhost")

    told = by_command(tmp_path, QUESTION, source="sft", chat=True, max_tokens=8)
    answer = told["answer"]
    ids = [token["id"] for token in told["tokens"][answer:]]
    seen = at(client, ids=ids)
    assert seen["offset"] == answer
    assert seen["special_from"] == len(engine.tokenizer.ranks)
    assert without(seen, "offset", "special_from") == without(told, "version", "command", "checkpoint", "answer")
    # one token of the answer, and the one to come
    for place, token in ((2, 2), ("next", len(ids))):
        chosen = place if place == "next" else answer + place
        told = by_command(tmp_path, QUESTION, source="sft", chat=True, max_tokens=8, token=chosen)
        assert at(client, ids=ids, token=token)["chosen"] == told["chosen"]

    # the same text in another checkpoint of this machine, a base model that continues it
    step = max(checkpoint.steps("base", "d1"))
    told = by_command(tmp_path, "Once upon a time", source="base", token=3)
    rest = [token["id"] for token in told["tokens"][2:]]
    text = told["tokens"][1]["text"]
    seen = at(client, model=f"base/d1/{step}", mode="text", text=text, ids=rest, token=1, messages=[])
    assert without(seen, "offset", "special_from") == without(told, "version", "command", "checkpoint", "answer")


def test_what_came_before_is_as_the_model_read_it(client: TestClient, engine: Engine) -> None:
    tool = [{"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}]
    messages = [*ASK, {"role": "assistant", "content": tool}, {"role": "user", "content": "Sure?"}]
    conversation = said(messages, "Be brief.")
    ids, _ = render_conversation(engine.tokenizer, conversation)
    ids.append(engine.tokenizer.special("<|assistant_start|>"))
    seen = at(client, messages=messages, system="Be brief.", ids=[65, 66])
    assert [token["id"] for token in seen["tokens"]] == [*ids, 65, 66] and seen["offset"] == len(ids)
    assert seen["chosen"]["token"] == len(ids) + 1
    # an answer that goes on
    seen = at(client, messages=messages[:2], ids=[65])
    assert seen["offset"] == len(render_partial(engine.tokenizer, said(messages[:2])))


def test_a_long_conversation_is_cut_as_for_its_answer(client: TestClient, engine: Engine) -> None:
    messages = [*ASK, {"role": "assistant", "content": "x" * 200}] * 4 + ASK
    seen = at(client, messages=messages, ids=[65] * 5, max_tokens=100)
    conversation = said(messages)
    kept = fit_conversation(engine.tokenizer, conversation, engine.window, 100)
    assert seen["offset"] == len(kept) < len(render_conversation(engine.tokenizer, conversation)[0])
    assert seen["offset"] <= engine.window - 100


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"ids": [65] * 512}, 422, "the model sees 512"),
        ({"ids": [10**6]}, 422, "Ids go from 0 to"),
        ({"ids": [-1]}, 422, "ids.0"),
        ({"ids": [65], "token": 2}, 422, "Choose a token from 1 to"),
        ({"token": -1}, 422, "token"),
        ({"messages": []}, 422, "there is no message"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 422, "expected user"),
        ({"mode": "poem"}, 422, "mode"),
        ({"model": "sft/d2/8"}, 404, "there is no checkpoint"),
        ({"model": "sft/../../d2/8"}, 404, "there is no checkpoint"),
        ({"max_tokens": 0}, 422, "max_tokens"),
    ],
)
def test_what_cannot_be_looked_at(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], status: int, said: str
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    told = client.post("/page/look", json={"messages": ASK, "ids": [65], **change})
    assert told.status_code == status and said in told.json()["detail"]


def test_other_models_are_for_those_who_are_let_in(
    engine: Engine, info: ModelInfo, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tiny_run))
    step = max(checkpoint.steps("sft", "d1"))
    for access, status in ((Access(loopback=False), 404), (Access(), 200)):
        client = TestClient(create_app(engine, info, access=access), base_url="http://localhost")
        asked = {"messages": ASK, "ids": [65]}
        assert client.post("/page/look", json={**asked, "model": f"sft/d1/{step}"}).status_code == status
        assert client.post("/page/look", json={**asked, "model": "sft/d2/7"}).status_code == 200  # the own one


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "text"]), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(anything, st.sampled_from(["model", "mode", "system", "messages", "text", "ids", "token", "max_tokens"]))
def test_no_body_breaks_it(client: TestClient, value: Any, name: str) -> None:
    text = json.dumps({"messages": ASK, "ids": [65, 66], name: value})
    told = client.post("/page/look", content=text, headers={"content-type": "application/json"})
    assert told.status_code in (200, 404, 422)


def test_one_at_a_time_and_not_for_those_who_left(
    engine: Engine, info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, looking, most, looked = threading.Event(), 0, 0, []

    def slow(*args: Any) -> Any:
        nonlocal looking, most
        looking += 1
        most = max(most, looking)
        may_go_on.wait(20)
        looked.append(args[3])
        looking -= 1
        return look_inside(*args)

    monkeypatch.setattr(page_look, "look_inside", slow)
    app = create_app(engine, info, access=Access())

    async def ask() -> list[Any]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:

            def one(token: int) -> asyncio.Task[Any]:
                body = {"messages": ASK, "ids": [65] * 20, "token": token}
                return asyncio.create_task(client.post("/page/look", json=body))

            asked = [one(token) for token in range(12)]
            while sum(task.done() for task in asked) < 3:  # those for whom there is no room
                await asyncio.sleep(0.01)
            assert (await client.get("/health")).status_code == 200  # the others are answered meanwhile
            may_go_on.set()
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    statuses = asyncio.run(ask())
    assert sorted(statuses) == [200] * 9 + [429] * 3
    assert most == 1 and len(looked) == 9


# ---- in a browser ---------------------------------------------------------------------------------------------


@pytest.fixture(params=BOTH)
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    with looked_at(browser, request.param, "503", reduced_motion="reduce") as page:
        yield page


Served = Callable[[FastAPI], str]


def settled(page: Page) -> None:
    """The look that was asked for last has come."""
    page.wait_for_function(
        "() => !document.querySelector('#look [aria-busy=true]') && !document.querySelector('#look .busy')"
    )


def fits(page: Page) -> None:
    """Nothing in the dialog stands beyond its right end, and the page cannot be scrolled sideways."""
    width = page.viewport_size["width"]  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("(d => d.scrollWidth - d.clientWidth)(document.getElementById('look'))") <= 0


def test_looking_inside_an_answer(page: Page, served: Served, engine: Engine, info: ModelInfo) -> None:
    app = create_app(engine, info, Defaults(temperature=0, max_tokens=24), access=Access())
    page.goto(served(app))
    named(page, "sft/d2")
    send(page, QUESTION)
    page.get_by_role("button", name="Look inside").click()
    dialog = page.get_by_role("dialog", name="Look inside")
    tokens = dialog.locator(".token")
    tokens.first.wait_for()
    told = [token.get_attribute("aria-label") or "" for token in tokens.all()]
    assert 2 < len(told) <= 25 and all(re.search(r", (<?\d+(\.\d)?%)$", label) for label in told)
    fits(page)

    # the keyboard alone: to the third token, its alternatives, and back
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert tokens.nth(2).evaluate("one => one === document.activeElement")
    page.keyboard.press("Enter")
    alternatives = dialog.locator(".alternatives button")
    alternatives.first.wait_for()
    assert alternatives.count() == 10
    shares = [
        float((one.inner_text() or "0").lstrip("<").rstrip("%")) for one in dialog.locator(".alternatives .share").all()
    ]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 103
    assert dialog.locator(".popover .head").inner_text().count(told[2].rpartition(", ")[2]) == 1  # as when it was made
    fits(page)
    box, place = dialog.locator(".popover").bounding_box(), tokens.nth(2).bounding_box()
    assert box and place and box["y"] >= place["y"]
    page.keyboard.press("Escape")
    assert dialog.is_visible() and dialog.locator(".popover").is_hidden()
    assert tokens.nth(2).evaluate("one => one === document.activeElement")

    # why: each layer, each head
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Why?").click()
    dialog.get_by_role("heading", name="Where layer 1 looked").wait_for()
    assert dialog.locator("tbody tr").count() == 2 and dialog.locator(".heads button").count() == 5
    offset = dialog.locator(".looked .text > span").count() - 2
    assert offset > 5 and "never trained to be read like that" in dialog.inner_text()
    mean = dialog.locator(".most").inner_text()
    dialog.get_by_role("button", name="Head 2").click()
    assert dialog.get_by_role("button", name="Head 2").get_attribute("aria-pressed") == "true"
    assert dialog.locator(".most").inner_text() != mean
    dialog.get_by_role("button", name="Layer 0: where it looked").click()
    dialog.get_by_role("heading", name="Where layer 0 looked").wait_for()
    assert dialog.get_by_role("button", name="Mean of the heads").get_attribute("aria-pressed") == "true"
    assert dialog.locator(".moment").is_hidden()  # there is one checkpoint alone
    fits(page)
    dialog.get_by_role("button", name="Back to the tokens").click()

    # another token in the place of the third one
    dialog.locator(".token.open").wait_for()
    choice = dialog.locator(".alternatives button:enabled").first
    wanted = choice.locator(".name").inner_text()
    choice.click()
    dialog.wait_for(state="hidden")
    page.get_by_text("2/2").wait_for()
    page.get_by_role("button", name="Look inside").click()
    tokens.first.wait_for()
    again = [(token.get_attribute("aria-label") or "").rpartition(", ")[0] for token in tokens.all()]
    assert again[:3] == [*(label.rpartition(", ")[0] for label in told[:2]), wanted] and len(again) > 3


@pytest.mark.slow
def test_the_same_text_in_earlier_checkpoints(
    page: Page, served: Served, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tiny_run))
    steps = sorted(checkpoint.steps("base", "d1"))
    assert len(steps) > 1
    engine, _ = load_engine("base", "d1", device="cpu", dtype="float32")
    info = ModelInfo("base", "d1", steps[-1], 1)
    page.goto(served(create_app(engine, info, Defaults(temperature=0, max_tokens=12), access=Access())))
    named(page, "base/d1")
    page.locator("#input").fill("Once upon a time")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Look inside the last answer").click()
    dialog = page.get_by_role("dialog", name="Look inside")
    dialog.locator(".token").nth(1).click()
    dialog.get_by_role("button", name="Why?").click()
    dialog.get_by_role("heading", name="Where layer 0 looked").wait_for()
    slider = dialog.get_by_label("Checkpoint")
    assert dialog.locator(".moment output").inner_text() == f"step {steps[-1]}"
    last = dialog.locator("tbody").inner_text()

    asked: list[Any] = []
    page.on(
        "request", lambda one: asked.append(one.post_data_json["model"]) if one.url.endswith("/page/look") else None
    )
    slider.focus()
    for _ in steps:
        page.keyboard.press("ArrowLeft")
    assert dialog.locator(".moment output").inner_text() == f"step {steps[0]}"
    page.wait_for_function("text => document.querySelector('#look tbody').innerText !== text", arg=last)
    settled(page)
    assert asked[-1] == f"base/d1/{steps[0]}" and len(asked) <= 2  # it waits until the slider rests
    fits(page)
    page.keyboard.press("End")
    page.wait_for_function("text => document.querySelector('#look tbody').innerText === text", arg=last)

    page.route(
        "**/page/look", lambda route: route.fulfill(status=503, json={"detail": "there is no memory for that now"})
    )
    page.keyboard.press("Home")
    dialog.get_by_text("there is no memory for that now").wait_for()
    settled(page)
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def alternative(id: int, text: str, probability: float) -> dict[str, Any]:
    return {"id": id, "text": text, "probability": probability}


HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
# [id, text, kind, p] of an answer with a tool call and odd tokens
TOKENS: list[list[Any]] = [
    [1, HOSTILE, "text", 0.95],
    [2, "", "text", 0.4],
    [3, "é\n", "text", 0.0001],
    [90, "", "special", 0.6],
    [4, "6*7", "python", 0.99],
    [91, "", "special", 1],
    [92, "", "special", None],
    [5, "42", "python_output", None],
    [93, "", "special", None],
    [6, " \u202eשלום\u0000", "text", 0.03],
    [94, "", "special", 0.7],
]
NAMES = {90: "python_start", 91: "python_end", 92: "output_start", 93: "output_end", 94: "assistant_end"}


def made_look() -> dict[str, Any]:
    seen = [
        {
            "id": id,
            "text": f"<|{NAMES[id]}|>" if id in NAMES else text,
            "special": id in NAMES,
            "probability": 0.5,
            "alternatives": [
                alternative(7, " other\t", 0.6),
                alternative(94, "<|assistant_end|>", 0.3),
                alternative(id, text, 0.1),
            ],
        }
        for id, text, _, _ in TOKENS
    ]
    first = {"id": 0, "text": "<|bos|>", "special": True, "probability": None, "alternatives": []}
    layer = {"layer": 0, "window": 2, "said": [alternative(7, HOSTILE, 0.5)], "probability": 0.2,
             "mean": [0, 0, 0.005, 0.02, 0.975], "heads": [[0, 0, 0, 0, 1], [0, 0, 0.01, 0.04, 0.95]]}  # fmt: skip
    chosen = {"token": 5, "id": 4, "seen_from": 4, "layers": [layer]}
    return {"offset": 1, "special_from": 90, "tokens": [first, *seen], "next": [], "chosen": chosen}


VIEWS = """
const { createTokens } = await import("/static/chat/look/tokens.js");
const { createLayers } = await import("/static/chat/look/layers.js");
for (const name of ["style.css", "chat/look/look.css"]) {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = `/static/${name}`;
  document.head.append(link);
  await new Promise((done) => link.addEventListener("load", done));
}
const root = document.getElementById("look");
const [tokens, layers] = [document.createElement("div"), document.createElement("div")];
layers.className = "layers";
root.append(tokens, layers);
window.told = [];
const tell = (name) => (...values) => { window.told.push([name, ...values]); };
let opened = null;
const { all, look } = argument;
const show = createTokens(tokens, {
  open: (index) => { opened = index; show(all, opened, look); }, choose: tell("choose"), inspect: tell("inspect"),
});
show(all, null, look);
const showLayers = createLayers(layers, { checkpoint: tell("checkpoint"), head: tell("head"), close: tell("close") });
showLayers({ look, index: 4, checkpoints: [], checkpoint: "", layer: null, head: null, busy: false, problem: "" });
"""


def test_odd_tokens_are_only_text(page: Page, served: Served, engine: Engine, info: ModelInfo) -> None:
    app = with_empty_page(create_app(engine, info), '<div id="look"></div>')
    page.route("**/favicon.ico", lambda route: route.fulfill(status=204))
    page.goto(f"{served(app)}/empty")
    run(page, VIEWS, {"all": TOKENS, "look": made_look()})
    tokens = page.locator(".token")
    assert page.locator("#look img").count() == 0 and page.title() == "empty"
    assert tokens.nth(1).get_attribute("aria-label") == "part of a character, 40%"
    assert tokens.nth(2).get_attribute("aria-label") == "é↵, <0.1%" and tokens.nth(2).inner_text() == "é↵\n"
    assert tokens.nth(3).inner_text() == "<|python_start|>"
    assert tokens.nth(9).get_attribute("aria-label") == "␣‹U+202E›שלום‹U+0000›, 3.0%"
    assert tokens.nth(7).get_attribute("aria-label") == "42, by the calculator"
    fine = 'tokens => tokens.map(one => [...one.classList].find(name => /band-/.test(name)) ?? "given")'
    bands = ["band-0", "band-2", "band-4", "band-1", "band-0", "band-0", "given", "given", "given", "band-4", "band-1"]
    assert tokens.evaluate_all(fine) == bands
    line = "const { textDecorationStyle, textDecorationLine } = getComputedStyle(one);"
    lines = f"bands => new Set(bands.map(one => {{ {line} return textDecorationStyle + textDecorationLine; }})).size"
    assert page.locator(".legend .band").evaluate_all(lines) == 5  # no colour alone tells them apart

    for index, choosable in [
        (0, True),
        (3, True),
        (4, False),
        (5, False),
        (6, False),
        (7, False),
        (8, False),
        (9, True),
    ]:
        tokens.nth(index).click()
        choices = page.locator(".alternatives button")
        # another token, unless this is in a tool call; never a special one, nor the one that stands here
        assert [one.is_enabled() for one in choices.all()] == [choosable, False, False], index
        page.get_by_role("button", name="Close").click()
    tokens.nth(9).click()
    page.get_by_role("button", name="␣other⇥ 60%").click()
    assert page.evaluate("told") == [["choose", 9, alternative(7, " other\t", 0.6)]]

    # layers: what is beyond the window is told apart
    looked = page.locator(".looked .text > span")
    assert [one.get_attribute("title").rpartition(": ")[2] for one in looked.all()] == [  # type: ignore[union-attr]
        "not seen", "not seen", "0.5%", "2.0%", "98%",
    ]  # fmt: skip
    assert "the 2 before it" in page.locator(".looked").inner_text()
    assert HOSTILE.replace(" ", "␣") in page.locator("tbody").inner_text()
