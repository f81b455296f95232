"""The exported file, opened from the disk as a person opens it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from nanochat import checkpoint
from nanochat.commands import export_html as command
from nanochat.console import UserError
from nanochat.conversation import Conversation
from nanochat.hub import export_html, html_file
from nanochat.hub.html_weights import WRITTEN, as_text
from nanochat.inference import Engine, Request, fit_conversation
from nanochat.inference.quantize import rounded
from nanochat.model import ModelConfig, load
from nanochat.tokenizer import Tokenizer
from tests.hub.exporting import SHAPES, VOCAB, make, write
from tests.hub.test_html_model import exact_tables

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "a fox <b>&</b>"}]}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.problems = []  # type: ignore[attr-defined]
    page.addresses = []  # type: ignore[attr-defined]
    page.on("console", lambda said: page.problems.append(said.text))  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: page.problems.append(str(error)))  # type: ignore[attr-defined]
    page.on("request", lambda request: page.addresses.append(request.url))  # type: ignore[attr-defined]
    yield page
    page.close()


def opened(page: Page, path: Path) -> Page:
    page.goto(path.as_uri())
    page.locator("#banner:empty").wait_for(state="attached")
    return page


def ask(page: Page, text: str) -> str:
    """What the page shows as the answer."""
    page.fill("#input", text)
    page.keyboard.press("Enter")
    page.locator("#stop").wait_for(state="hidden")
    return page.locator(".message.assistant .body").last.text_content() or ""


@pytest.mark.parametrize("shape", ["heads", "pairs, short windows"])
def test_a_chat(base: Path, page: Page, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Question and answer, twice; nothing is asked for from anywhere, and nothing breaks the page's own policy."""
    monkeypatch.setattr(html_file, "DEFAULTS", html_file.DEFAULTS | {"temperature": 0.0, "max_tokens": 20})
    model = exact_tables(make(SHAPES[shape], silent=False))
    folder = write(model)
    path = export_html("sft", base / "my bot \N{PILE OF POO}.html")
    opened(page, path)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    engine = Engine(rounded(load(folder)), tokenizer)
    messages: list[dict[str, Any]] = []
    for text in ("a fox <b>&</b></script>", "and a hen?"):
        messages.append({"role": "user", "content": text})
        conversation = Conversation.from_dict({"messages": messages})
        done = engine.generate([Request(fit_conversation(tokenizer, conversation, engine.window, 20), 20, 0.0)])[0]
        parts = [part.text if part.type == "text" else f" [{part.text}] " for part in done.parts]
        assert ask(page, text) == "".join(parts)
        messages.append({"role": "assistant", "content": done.parts or ""})
    assert page.problems == []  # type: ignore[attr-defined]
    assert [re.sub("/[0-9a-f-]{36}$", "", address) for address in page.addresses] == [path.as_uri(), "blob:null"]  # type: ignore[attr-defined]


def test_stop(base: Path, page: Page) -> None:
    """An answer without an end can be stopped, and the next question is answered."""
    write(make(SHAPES["whole windows"]))
    text = export_html("sft", base / "bot.html").read_text()
    slow = text.replace('"window":256', '"window":100000').replace('"max_tokens":512', '"max_tokens":99999')
    (base / "slow.html").write_text(slow)
    opened(page, base / "slow.html")
    page.fill("#input", "a hen")
    page.keyboard.press("Enter")
    answers = page.locator(".message.assistant .body:not(:empty)")
    answers.first.wait_for(state="attached")
    page.keyboard.press("Escape")
    page.locator("#stop").wait_for(state="hidden")
    assert page.locator("#banner").text_content() == ""
    page.fill("#input", "again")
    page.keyboard.press("Enter")
    answers.nth(1).wait_for(state="attached")
    page.click("#stop")
    page.locator("#stop").wait_for(state="hidden")


def test_a_trained_model(tiny_run: Path, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tiny_run))
    monkeypatch.setattr(html_file, "DEFAULTS", html_file.DEFAULTS | {"temperature": 0.0, "max_tokens": 30})
    command.run(command.Config(output=str(tmp_path / "bot.html")))
    folder = checkpoint.find("sft")
    engine = Engine(rounded(load(folder)), Tokenizer.load(folder / "tokenizer"))
    conversation = Conversation.from_dict({"messages": [{"role": "user", "content": "What is 12 + 30?"}]})
    ids = fit_conversation(engine.tokenizer, conversation, engine.window, 30)
    done = engine.generate([Request(ids, 30, 0.0)])[0]
    opened(page, tmp_path / "bot.html")
    shown = ask(page, "What is 12 + 30?")
    assert shown == "".join(part.text if part.type == "text" else f" [{part.text}] " for part in done.parts)


def test_a_browser_without_workers(base: Path, page: Page) -> None:
    write(make(SHAPES["heads"]))
    path = export_html("sft", base / "bot.html")
    page.add_init_script("globalThis.Worker = class { constructor() { throw new Error('no workers from file://'); } };")
    page.goto(path.as_uri())
    page.locator("#banner", has_text="This browser cannot run the model: no workers from file://").wait_for()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"bytes":', '"bytes":9e99,"was":'), "there is too little memory for it"),
        (('"version":1', '"version":9'), "of another version"),
        (('"places":{', '"places":{},"was":{'), "the file lacks tokens"),
    ],
)
def test_what_cannot_be_unpacked(base: Path, page: Page, change: tuple[str, str], said: str) -> None:
    write(make(SHAPES["heads"]))
    path = export_html("sft", base / "bot.html")
    path.write_text(path.read_text().replace(*change, 1))
    page.goto(path.as_uri())
    page.locator("#banner", has_text=said).wait_for()


def test_a_damaged_file(base: Path, page: Page) -> None:
    """A changed character in the weights is noticed."""
    write(make(SHAPES["heads"]))
    path = export_html("sft", base / "bot.html")
    text = path.read_text()
    at = text.index('id="weights-0">') + 5000
    path.write_text(text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :])
    page.goto(path.as_uri())
    page.locator("#banner", has_text="This browser cannot run the model").wait_for()


def test_a_browser_without_scripts(base: Path, browser: Browser) -> None:
    write(make(SHAPES["heads"]))
    path = export_html("sft", base / "bot.html")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert "JavaScript" in page.locator("#unable").inner_text()
    assert page.locator("#input").is_hidden()
    context.close()


def test_the_text_of_bytes(probe: Any) -> None:
    """Every byte, every length, and what a page does to characters."""
    assert {bytes(WRITTEN)[byte] & 127 for byte in range(128)} == set(range(128))
    for n in range(20):
        data = bytes(range(251, 256)) * n + bytes(n) + b"\x0d<\r\n" * n
        text = as_text(data)
        assert not set(text) & set("\0\r<") and text.encode("utf-8").decode("utf-8") == text
        assert probe.call("bytes", text) == list(data)


def test_what_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(make(SHAPES["heads"]))
    (base / "folder.html").mkdir()
    (base / "diary.html").write_text("<p>Dear diary")
    for output, problem in (
        ("folder.html", "is a folder"),
        ("diary.html", "is a file that no export wrote"),
        ("bot.txt", "does not end with .html"),
        ("", "is a folder"),
    ):
        with pytest.raises(UserError, match=problem):
            export_html("sft", str(base / output) if output else "")
    with pytest.raises(UserError, match="there is no checkpoint|no .*checkpoint"):
        export_html("rl", base / "bot.html")
    with pytest.raises(UserError, match="--max-mb is 0"):
        export_html("sft", base / "bot.html", max_mb=0)
    assert (base / "diary.html").read_text() == "<p>Dear diary"
    assert not (base / "bot.html").exists()
    export_html("sft", base / "bot.html")
    export_html("sft", base / "bot.html")  # which an export wrote
    assert not list(base.glob(".*.part"))


def test_a_model_that_is_too_large(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(make(SHAPES["heads"]))
    large = ModelConfig.from_depth(24, 32768, 2048)
    monkeypatch.setattr(html_file.model, "read_config", lambda folder: large)
    with pytest.raises(UserError) as raised:
        export_html("sft", base / "bot.html")
    fitting = re.search(r"Export one of depth (\d+) or less", raised.value.remedy)
    assert fitting and "depth 24 with 32,768 tokens" in raised.value.problem and "--max-mb" in raised.value.problem
    assert int(fitting[1]) >= 4
    with pytest.raises(UserError) as raised:
        export_html("sft", base / "bot.html", max_mb=1)
    assert "fewer tokens" in raised.value.remedy
    assert not (base / "bot.html").exists()


def test_tables_are_rounded_before_a_model_is_refused(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(make(ModelConfig(2, 256, 4, 4, VOCAB, 64, "modern", windows="L", bigram=8000)))
    size = export_html("sft", base / "bot.html").stat().st_size
    assert "eight bits, too" not in capsys.readouterr().out
    smaller = export_html("sft", base / "bot.html", max_mb=int(size // 1e6)).stat().st_size
    assert "eight bits, too" in capsys.readouterr().out
    assert smaller <= size // 1e6 * 1e6
    with pytest.raises(UserError, match="more than the 2 that --max-mb allows"):
        export_html("sft", base / "bot.html", max_mb=2)


def test_nothing_of_this_machine(base: Path) -> None:
    """Neither paths nor names of files are in it, and no address but those of the page's own words."""
    write(make(SHAPES["heads"]))
    text = export_html("sft", base / "bot.html").read_text()
    assert str(base) not in text and "/home/" not in text
    assert not re.findall(r"https?://", text)
    header = json.loads(re.search('id="header">(.*?)</script>', text)[1])  # type: ignore[index]
    assert header["name"] == "sft/d/7" and header["chat"] is True
