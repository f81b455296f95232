"""What a person does in an exported file, and what the page says where it cannot run."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from nanochat.hub import export_html, html_file
from tests.hub.exporting import SHAPES, make, write
from tests.serve.axe import Axe, axe
from tests.serve.browsing import looked_at, send

__all__ = ["axe"]

# A worker that tests can hold back and break.
HELD = """
globalThis.Worker = class extends Worker {
  constructor(...given) {
    super(...given);
    globalThis.worker = this;
  }
  postMessage(message) {
    if (message.type !== "block") return super.postMessage(message);
    globalThis.release = () => super.postMessage(message);
  }
};
"""
# A worker that says what a test tells it to instead of the model's answer.
SCRIPTED = """
globalThis.Worker = class extends Worker {
  constructor(...given) {
    super(...given);
    globalThis.hear = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
  }
  postMessage(message) {
    if (message.type !== "ask") return super.postMessage(message);
    const id = message.ask.id;
    globalThis.says = (...said) =>
      hear({ type: "tokens", id, tokens: said.map(([text, kind]) => [0, text, kind, 1, []]) });
    globalThis.ends = () =>
      hear({ type: "end", id, end: { finish: "stop", error: null, tokens: 1, seconds: 1, first: 1 } });
    const counts = { prompt_tokens: 1, window: 9, left_out: 0, cut: 0, begun: 0, seed: 0 };
    hear({ type: "start", id, start: { id, model: "", chat: true, ...counts } });
    globalThis.asked = JSON.stringify(message.ask.messages);
  }
};
"""
REFUSED = """
for (const name of ["localStorage", "indexedDB", "sessionStorage"]) {
  Object.defineProperty(globalThis, name, { get() { throw new DOMException("refused", "SecurityError"); } });
}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model that never ends by itself, and calls no tool."""
    folder = tmp_path_factory.mktemp("file")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        patch.setattr(html_file, "DEFAULTS", html_file.DEFAULTS | {"max_tokens": 12})
        write(make(SHAPES["whole windows"]))
        yield export_html("sft", folder / "bot.html")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with looked_at(browser, (390, 700), reduced_motion="reduce") as page:
        page.add_init_script(REFUSED)
        yield page


def opened(page: Page, file: Path) -> Page:
    page.goto(file.as_uri())
    page.locator("#banner:empty").wait_for(state="attached")
    return page


def ask(page: Page, text: str) -> None:
    before = page.locator(".message").count()
    send(page, text)
    page.locator(".message").nth(before + 1).wait_for()
    finished(page)


def finished(page: Page) -> None:
    page.get_by_role("button", name="Send").wait_for()


def answer(page: Page) -> str:
    return page.locator(".message.assistant .body").last.inner_text()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).last.click()


def test_a_conversation_and_its_branches(page: Page, file: Path) -> None:
    """Another answer, the rest of one, a question with other words; on a phone, where nothing can be kept."""
    opened(page, file)
    assert page.locator("#model").inner_text().startswith("sft/d, step 7")
    assert page.title() == "sft/d/7 - nanochat"
    ask(page, "a hen")
    first = answer(page)
    press(page, "Try again")
    page.get_by_text("2/2").wait_for()
    finished(page)
    assert answer(page) != first
    press(page, "Earlier version")
    assert answer(page) == first
    page.get_by_text("It reached the longest answer (12 tokens).").wait_for()
    press(page, "Continue")
    finished(page)
    assert answer(page).startswith(first) and len(answer(page)) > len(first)
    press(page, "Edit")
    page.get_by_label("Your message").fill("a fox")
    press(page, "Ask again")
    page.locator(".message.user", has_text="a fox").wait_for()
    finished(page)
    assert page.locator(".message.user").inner_text().count("2/2") == 1

    made = page.locator("#made")
    made.wait_for()
    assert "made with nanochat: bash speedrun.sh" in made.inner_text()
    box = made.bounding_box()
    assert box is not None and box["y"] + box["height"] <= 700

    press(page, "New chat")
    page.get_by_role("heading", name="What would you like to know?").wait_for()
    ask(page, "another")
    page.go_back()
    page.locator(".message.user", has_text="a fox").wait_for()
    page.go_forward()
    page.locator(".message.user", has_text="another").wait_for()


def test_a_tool_call_without_a_result_is_not_shown(page: Page, file: Path) -> None:
    page.add_init_script(SCRIPTED)
    opened(page, file)
    send(page, "a hen")
    page.wait_for_function("() => globalThis.says")
    page.evaluate('says(["It is ", "text"], ["", "special"], ["3*You ", "python"])')
    page.get_by_text("It is", exact=True).wait_for()
    assert page.locator(".tool").count() == 0
    page.evaluate('says(["are", "python"], ["", "special"], [" so.", "text"]); ends()')
    finished(page)
    assert answer(page) == "It is so."
    send(page, "a fox")
    page.wait_for_function("() => asked.includes('a fox')")
    assert {"type": "python", "text": "3*You are"} in json.loads(page.evaluate("asked"))[1]["content"]
    page.evaluate('says(["", "special"], ["6*7", "python"]); says(["", "special"])')
    assert page.locator(".tool").count() == 0
    page.evaluate('says(["", "special"], ["42", "python_output"], ["", "special"], ["42.", "text"]); ends()')
    finished(page)
    assert page.locator(".tool .python").inner_text() == "6*7"


def test_settings(page: Page, file: Path) -> None:
    opened(page, file)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Top p").fill("0")
    page.get_by_label("System prompt of this conversation").fill("the mill")
    press(page, "Done")
    ask(page, "a hen")
    first = answer(page)
    press(page, "Try again")
    page.get_by_text("2/2").wait_for()
    finished(page)
    assert answer(page) == first
    page.get_by_role("button", name="Figures").click()
    page.get_by_text(re.compile(r"\d+ of 256 tokens")).wait_for()
    read = page.get_by_text(re.compile(r"\d+ to read, 12 said")).inner_text()
    page.keyboard.press("Escape")
    press(page, "New chat")  # which begins without that prompt
    ask(page, "a hen")
    page.get_by_role("button", name="Figures").click()
    page.get_by_text(re.compile(r"\d+ to read, 12 said")).wait_for()
    page.wait_for_function("before => !document.getElementById('panel').innerText.includes(before)", arg=read)


def test_looking_inside(page: Page, file: Path) -> None:
    """Each token with its likeliest alternatives, one of which another answer goes on from. No layers are promised."""
    opened(page, file)
    ask(page, "a hen")
    press(page, "Look inside: how likely each token was")
    dialog = page.get_by_role("dialog", name="Look inside")
    tokens = dialog.locator(".token")
    assert tokens.count() == 12 and dialog.locator(".token.band").count() == 12
    before = tokens.all_text_contents()
    tokens.nth(3).click()
    choices = dialog.locator(".alternatives button")
    choices.first.wait_for()
    assert choices.count() == 8 and dialog.locator(".alternatives .bar").count() == 8
    assert dialog.get_by_role("button", name="Why").count() == 0
    other = dialog.locator(".alternatives button:enabled").first
    name = other.locator(".name").inner_text()
    other.click()
    page.get_by_text("2/2").wait_for()
    finished(page)
    press(page, "Look inside: how likely each token was")
    assert tokens.count() == 4 + 12
    after = tokens.all_text_contents()
    assert after[:3] == before[:3] and after[3] != before[3]
    tokens.nth(3).click()  # what was chosen knows what it was chosen from
    choices.first.wait_for()
    assert choices.count() == 8
    assert dialog.locator(".alternatives button[aria-current] .name").inner_text() == name


def test_asked_before_the_model_is_there(page: Page, file: Path) -> None:
    page.add_init_script(HELD)
    page.goto(file.as_uri())
    page.get_by_text("Unpacking the model 0%").wait_for()
    send(page, "a hen")
    page.get_by_text("The model is being loaded.").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()
    press(page, "Try again")
    page.get_by_text("The model is being loaded.").wait_for()
    page.evaluate("release()")
    page.get_by_text("It reached the longest answer (12 tokens).").wait_for()
    assert page.locator("#banner").inner_text() == ""


def test_while_the_file_is_coming(browser: Browser, file: Path) -> None:
    """Over a network one can write, and ask, before all of it is here."""
    data, rest = file.read_bytes(), threading.Event()
    half = data.index(b'id="weights-0"') + 1000

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(data[:half])
            self.wfile.flush()
            rest.wait(60)
            self.wfile.write(data[half:])

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server, looked_at(browser, (390, 700)) as page:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/", wait_until="commit")
        send(page, "a hen")
        page.get_by_text("The model is being loaded.").wait_for()
        assert page.evaluate("document.readyState") == "loading"
        rest.set()
        page.get_by_text("It reached the longest answer (12 tokens).").wait_for()
        server.shutdown()


def test_two_conversations_at_once(page: Page, file: Path, tmp_path: Path) -> None:
    """The second waits for the first, whose answer goes on unseen."""
    text = file.read_text().replace('"window":256', '"window":9000', 1)
    (tmp_path / "slow.html").write_text(text.replace('"max_tokens":12', '"max_tokens":8000', 1))
    opened(page, tmp_path / "slow.html")
    for words in ("a hen", "a fox"):
        press(page, "New chat")
        send(page, words)
        page.locator(".message.user", has_text=words).wait_for()
    page.get_by_text("Others are being answered first.").wait_for()
    page.go_back()
    page.locator(".message.user", has_text="a hen").wait_for()
    page.locator(".message.streaming").wait_for()
    press(page, "Stop")
    page.get_by_text("Stopped.").wait_for()
    assert answer(page)
    page.go_forward()
    page.locator(".message.user", has_text="a fox").wait_for()
    page.locator(".message.assistant .markdown:not(:empty)").wait_for()
    press(page, "Stop")
    page.get_by_text("Stopped.").wait_for()


def test_the_worker_breaks_off(page: Page, file: Path) -> None:
    """In the middle of an answer: it is said, what was said stays, and nothing more can be asked."""
    page.add_init_script(HELD)
    page.goto(file.as_uri())
    page.wait_for_function("() => Boolean(globalThis.release)")
    page.evaluate("release()")
    page.locator("#banner:empty").wait_for(state="attached")
    ask(page, "a hen")
    page.evaluate("worker.terminate()")
    send(page, "and a fox?")
    page.get_by_role("button", name="Stop").wait_for()
    page.evaluate("worker.dispatchEvent(new ErrorEvent('error', { message: 'out of memory' }))")
    page.locator(".message .note.bad", has_text="The model broke off: out of memory. Reload this page").wait_for()
    page.locator("#banner", has_text="The model broke off: out of memory.").wait_for()
    assert page.locator(".message").count() == 4
    page.get_by_label("Message", exact=True).fill("again")
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="Send").is_disabled() and page.locator(".message").count() == 4


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("delete globalThis.DecompressionStream", "This browser is too old .* it has no DecompressionStream"),
        ("delete globalThis.Worker", "This browser is too old .* it has no Worker"),
        ("delete Map.groupBy", "This browser is too old .* it has no groupBy"),
        (
            "globalThis.Worker = class { constructor() { throw new Error('no workers from file://'); } };",
            r"This browser cannot run the model: no workers from file://\. Try a current Firefox",
        ),
    ],
)
def test_a_browser_that_lacks_something(browser: Browser, file: Path, script: str, words: str) -> None:
    with looked_at(browser, (390, 700), "it has no") as page:
        page.add_init_script(script)
        page.goto(file.as_uri())
        page.get_by_text(re.compile(words)).wait_for()


def test_an_old_browser(browser: Browser, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's script has words that it does not know."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(file.parent / "base"))
    monkeypatch.setattr(html_file, "bundle", lambda entry: "let page = new old;")
    old = export_html("sft", tmp_path / "old.html")
    text = old.read_text()
    with looked_at(browser, (390, 700), "old") as page:
        page.goto(old.as_uri())
        page.get_by_text("This browser is too old").wait_for()
    old.write_text(text.replace("window.onerror", "window.other"))  # not even that runs: another policy forbids it
    with looked_at(browser, (390, 700), "old", "Content Security Policy") as page:
        page.goto(old.as_uri())
        page.get_by_text("If these words stay, it cannot run here").wait_for()
        assert page.get_by_label("Message", exact=True).is_hidden()


def test_a_page_that_a_browser_saved(page: Page, browser: Browser, file: Path, tmp_path: Path) -> None:
    """As it is while it is open: what was said is there, the model is not, and that is told."""
    opened(page, file)
    ask(page, "a hen")
    said, copy = answer(page), tmp_path / "saved.html"
    copy.write_text(page.content())
    with looked_at(browser, (390, 700), "without the model", "Content Security Policy") as again:
        again.goto(copy.as_uri())
        again.locator("#banner", has_text="Open the file itself to go on.").wait_for()
        assert answer(again) == said and again.get_by_label("Message", exact=True).is_disabled()


@pytest.mark.parametrize("place", ['id="header"', 'id="worker"', "const module5 = "])
def test_a_file_that_ends_before_its_weights(browser: Browser, file: Path, tmp_path: Path, place: str) -> None:
    text = file.read_text()
    (tmp_path / "short.html").write_text(text[: text.rindex(place) + 20])
    with looked_at(browser, (390, 700)) as page:
        page.goto((tmp_path / "short.html").as_uri())
        page.get_by_text("a part of the file is missing: get it once more").wait_for()
        assert page.locator("#input").is_hidden() or not page.locator("#input").count()


def test_without_scripts(browser: Browser, file: Path) -> None:
    with looked_at(browser, (390, 700), java_script_enabled=False) as page:
        page.goto(file.as_uri())
        assert "JavaScript is switched off: allow it for this file." in page.locator("#unable").inner_text()
        assert page.locator("#input").is_hidden()


def test_without_web_assembly(browser: Browser, file: Path, tmp_path: Path) -> None:
    """Slower, and the same."""
    plain = tmp_path / "plain.html"
    plain.write_text(file.read_text().replace(" 'wasm-unsafe-eval'", "", 1))
    said = []
    for path in (file, plain):
        with looked_at(browser, (900, 700), "WebAssembly") as page:
            opened(page, path)
            page.get_by_role("button", name="Settings").click()
            page.get_by_label("Temperature").fill("0")
            press(page, "Done")
            ask(page, "a hen")
            said.append(answer(page))
    assert said[0] == said[1] != ""


def test_odd_names(page: Page, file: Path, tmp_path: Path) -> None:
    odd = "sft/<img src=x onerror=alert(1)>\"'&\N{PILE OF POO}\u202e\u05d0/7"
    name = odd.replace("<", "\\u003c").replace('"', '\\"')
    text = file.read_text().replace('"name":"sft/d/7"', f'"name":"{name}"', 1)
    (tmp_path / "odd.html").write_text(text.replace("<title>sft/d/7", f"<title>{html.escape(odd)}", 1))
    opened(page, tmp_path / "odd.html")
    ask(page, "a hen")
    assert odd[:-2] in page.locator("#model").inner_text() and page.locator("img[src=x]").count() == 0
    page.get_by_role("button", name="Figures").click()
    assert odd[:-2] in page.locator("#panel h3").inner_text()
    assert odd in page.title()


def test_a_text_is_continued(page: Page, file: Path, tmp_path: Path) -> None:
    """A base model goes on with it, and with what is added to it."""
    base = tmp_path / "base.html"
    base.write_text(file.read_text().replace('"name":"sft/d/7","chat":true', '"name":"base/d/7","chat":false', 1))
    opened(page, base)
    page.get_by_role("heading", name="How does the text begin?").wait_for()
    send(page, "a fox and a hen")
    text = page.locator(".message.flow .body")
    text.wait_for()
    page.get_by_role("button", name="Continue").wait_for()
    first = text.inner_text()
    assert first.startswith("a fox and a hen") and len(first) > len("a fox and a hen")
    page.get_by_role("button", name="Continue").click()
    page.wait_for_function("n => document.querySelector('.flow .body').innerText.length > n", arg=len(first))
    page.get_by_role("button", name="Continue").wait_for()
    assert text.inner_text().startswith(first)


def test_in_axes_eyes(axe: Axe, page: Page, file: Path) -> None:
    page.add_init_script(HELD)
    page.goto(file.as_uri())
    page.get_by_text("Unpacking the model 0%").wait_for()
    assert axe.everywhere(page) == []
    page.evaluate("release()")
    page.locator("#banner:empty").wait_for(state="attached")
    ask(page, "a hen")
    page.get_by_role("button", name="Figures").click()
    assert axe.everywhere(page) == []


def test_what_the_page_adds(file: Path) -> None:
    """To the weights."""
    text = file.read_text()
    weights: list[Any] = re.findall(r'id="weights-\d+">(.*?)</script>', text, re.DOTALL)
    assert len(text) - sum(map(len, weights)) < 250_000
