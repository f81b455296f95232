"""The exported file, opened from the disk as a person opens it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from nanochat import checkpoint
from nanochat.commands import export_html as command
from nanochat.console import UserError
from nanochat.conversation import Conversation, Part
from nanochat.hub import card_rows, export_html, html_file
from nanochat.hub.ancestry import ancestry
from nanochat.hub.html_weights import WRITTEN, as_text
from nanochat.inference import Engine, Request, fit_conversation, visible
from nanochat.inference.quantize import rounded
from nanochat.model import ModelConfig, load
from nanochat.tokenizer import Tokenizer
from tests.hub.exporting import SHAPES, VOCAB, make, write
from tests.hub.test_html_model import exact_tables
from tests.serve.browsing import send

CLIPBOARD = """
const clipboard = { writeText: async (text) => void (globalThis.copied = text) };
Object.defineProperty(navigator, "clipboard", { value: clipboard });
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    page.add_init_script(CLIPBOARD)
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


def ask(page: Page, text: str) -> tuple[str, list[str]]:
    """The answer's words, and its tool calls with what the tool said."""
    answers = page.locator(".message.assistant")
    before = answers.count()
    send(page, text)
    answer = answers.nth(before)
    answer.wait_for()
    page.locator("#stop").wait_for(state="hidden")
    words = ""
    if answer.get_by_role("button", name="Copy").is_visible():
        answer.get_by_role("button", name="Copy").click()
        words = page.evaluate("copied")
    return words, answer.locator(".tool > *").all_text_contents()


def said(parts: Sequence[Part]) -> tuple[str, list[str]]:
    words = "".join(part.text for part in parts if part.type == "text")
    return words, [part.text for part in parts if part.type != "text"]


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
        assert ask(page, text) == said(done.parts)
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
    send(page, "a hen")
    answers = page.locator(".message.assistant .markdown:not(:empty)")
    answers.first.wait_for(state="attached")
    page.keyboard.press("Escape")
    page.get_by_text("Stopped.").wait_for()
    send(page, "again")
    answers.nth(1).wait_for(state="attached")
    page.click("#stop")
    page.get_by_text("Stopped.").nth(1).wait_for()
    assert page.locator("#banner").text_content() == ""


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
    assert ask(page, "What is 12 + 30?") == said(visible(done.parts))
    page.get_by_role("button", name="Figures").click()
    names, values = (page.locator(f"#panel {tag}").all_text_contents() for tag in ("dt", "dd"))
    facts = dict(zip(names, values, strict=True))
    made = ancestry("sft", folder.parent.name, folder)
    assert facts.items() >= dict(card_rows.trained(made)).items() and "Steps (base)" in facts and "Time in all" in facts
    assert facts.items() >= dict(card_rows.scores(made[-1])).items() and "val loss" in facts
    assert facts["Layers"] == str(engine.model.config.depth) and facts["Context used"].endswith(" tokens")
    text = (tmp_path / "bot.html").read_text()
    assert not [name for name in (str(tiny_run), platform.node(), getpass.getuser()) if len(name) > 4 and name in text]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"bytes":', '"bytes":9e99,"was":'), "there is too little memory for it"),
        (('"version":1', '"version":9'), "This file is damaged: it is of another version"),
        (('"blocks":1', '"blocks":2'), "This file is damaged: a part of it is missing"),
    ],
)
def test_what_cannot_be_unpacked(base: Path, page: Page, change: tuple[str, str], words: str) -> None:
    write(make(SHAPES["heads"]))
    path = export_html("sft", base / "bot.html")
    path.write_text(path.read_text().replace(*change, 1))
    page.goto(path.as_uri())
    page.locator("#banner", has_text=words).wait_for()


def test_a_damaged_file(base: Path, page: Page) -> None:
    """A changed character in the weights is noticed."""
    write(make(SHAPES["heads"]))
    path = export_html("sft", base / "bot.html")
    text = path.read_text()
    at = text.index('id="weights-0">') + 5000
    path.write_text(text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :])
    page.goto(path.as_uri())
    page.locator("#banner", has_text="This file is damaged: its numbers are not those that were written.").wait_for()


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


def test_odd_places(base: Path) -> None:
    """A pipe is not waited for, a link leads to the file and stays, and a name that no file can have is told."""
    write(make(SHAPES["heads"]))
    os.mkfifo(base / "pipe.html")
    (base / "device.html").symlink_to("/dev/null")
    (base / "circle.html").symlink_to("circle.html")
    for name, problem in (
        ("pipe.html", "it is no regular file"),
        ("device.html", "it is no regular file"),
        ("circle.html", "cannot use"),
        ("a\0b.html", "cannot use"),
    ):
        with pytest.raises(UserError, match=problem):
            export_html("sft", str(base / name))
    (base / "there").mkdir()
    (base / "link.html").symlink_to("there/bot.html")
    export_html("sft", base / "link.html")
    export_html("sft", base / "link.html")
    assert (base / "link.html").is_symlink() and html_file.GENERATOR in (base / "there" / "bot.html").read_bytes()


def test_a_full_disk(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(make(SHAPES["heads"]))
    export_html("sft", base / "bot.html")
    before = (base / "bot.html").read_bytes()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=99))
    with pytest.raises(UserError, match="on the disk of .* free") as raised:
        export_html("sft", base / "bot.html")
    assert "--output" in raised.value.remedy and (base / "bot.html").read_bytes() == before


def test_a_model_that_is_too_large(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(make(SHAPES["heads"]))
    large = ModelConfig.from_depth(24, 32768, 2048)
    monkeypatch.setattr(html_file.model, "read_config", lambda folder: large)
    with pytest.raises(UserError) as raised:
        export_html("sft", base / "bot.html")
    fitting = re.search(r"Export one of depth (\d+)", raised.value.remedy)
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
    assert re.findall(r"https?://.{9}", text) == ["http://${named[1"]  # of links that a model writes
    header = json.loads(re.search('id="header">(.*?)</script>', text)[1])  # type: ignore[index]
    assert header["name"] == "sft/d/7" and header["chat"] is True
