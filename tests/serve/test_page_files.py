"""The pages' files: how much comes over the wire, and that only this server is asked, for what is needed."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nanochat.serve import ModelInfo, create_app
from nanochat.serve.files import STATIC
from nanochat.serve.schema import MAX_CHARACTERS, MAX_MESSAGE_CHARACTERS, MAX_MESSAGES
from nanochat.serve.watch import create_app as create_watch

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MOST = 150_000  # bytes of a page, with all that it loads when it is opened
SOURCES = [path for path in STATIC.rglob("*") if path.suffix in (".js", ".html", ".css", ".svg")]
FORBIDDEN = "innerHTML|outerHTML|insertAdjacentHTML|document.write|createContextualFragment|eval\\(|new Function|srcdoc"


@pytest.fixture
def client(scripted: Any, info: ModelInfo) -> TestClient:
    return TestClient(create_app(scripted(lambda request: []), info), base_url="http://localhost")


def test_the_page_knows_the_servers_limits() -> None:
    told = dict(re.findall(r"export const (\w+) = ([\d_]+);", (STATIC / "chat" / "limits.js").read_text()))
    assert {name: int(number) for name, number in told.items()} == {
        "MESSAGE": MAX_MESSAGE_CHARACTERS,
        "ALL": MAX_CHARACTERS,
        "MESSAGES": MAX_MESSAGES,
    }


def test_they_come_packed_and_only_when_they_changed(client: TestClient) -> None:
    path = "/static/chat/main.js"
    whole = (STATIC / "chat" / "main.js").read_bytes()
    found = client.get(path, headers={"accept-encoding": "gzip"})
    assert found.content == whole and found.headers["content-encoding"] == "gzip"
    assert int(found.headers["content-length"]) == len(gzip.compress(whole, mtime=0))
    assert found.headers["content-type"].startswith("text/javascript") and found.headers["cache-control"] == "no-cache"
    assert found.headers["x-content-type-options"] == "nosniff" and found.headers["vary"] == "Accept-Encoding"
    plain = client.get(path, headers={"accept-encoding": "identity"})
    assert plain.content == whole and "content-encoding" not in plain.headers
    again = client.get(path, headers={"if-none-match": f'"x", {found.headers["etag"]}'})
    assert again.status_code == 304 and again.content == b""
    assert client.get(path, headers={"if-none-match": '"x"'}).status_code == 200
    assert client.head(path).status_code == 200
    for wrong in ("chat", "chat/", "nothing.js", "..%2ffiles.py", "%2e%2e/files.py", "chat/..%2f..%2f..%2faccess.py"):
        assert client.get(f"/static/{wrong}").status_code == 404, wrong
    assert client.post(path).status_code == 405


def test_a_changed_file_is_seen(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.serve.files.STATIC", tmp_path)
    (tmp_path / "a.css").write_text("a")
    app = TestClient(create_watch(), base_url="http://localhost")
    first = app.get("/static/a.css")
    (tmp_path / "a.css").write_text("bc")
    second = app.get("/static/a.css", headers={"if-none-match": first.headers["etag"]})
    assert (first.text, second.text) == ("a", "bc")


def test_a_style_sheet_comes_with_those_that_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.serve.files.STATIC", tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "a.css").write_text('/* a */\n@import "./in/b.css";\n@import "./in/c.css";\n.a {}\n')
    (tmp_path / "in" / "b.css").write_text(".b {}\n")
    (tmp_path / "in" / "c.css").write_text('@import "../d.css";\n.c {}\n')
    (tmp_path / "d.css").write_text(".d {}\n")
    app = TestClient(create_watch(), base_url="http://localhost")
    first = app.get("/static/a.css")
    assert first.text == ".b {}\n.d {}\n.c {}\n/* a */\n.a {}\n"
    (tmp_path / "d.css").write_text(".dd {}\n")
    second = app.get("/static/a.css", headers={"if-none-match": first.headers["etag"]})
    assert ".dd {}" in second.text


def test_the_page_itself(client: TestClient) -> None:
    found = client.get("/")
    assert "default-src 'self'" in found.headers["content-security-policy"] and "<title>nanochat</title>" in found.text
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    again = client.get("/", headers={"if-none-match": found.headers["etag"]})
    assert again.status_code == 304 and "default-src 'self'" in again.headers["content-security-policy"]


@pytest.mark.parametrize("page", ["chat", "watch"])
def test_weight(
    page: str,
    browser: Browser,
    scripted: Any,
    info: ModelInfo,
    served: Callable[[FastAPI], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    chat = page == "chat"
    address = served(create_app(scripted(lambda request: []), info) if chat else create_watch())
    context = browser.new_context()
    view = context.new_page()
    view.goto(address)
    view.get_by_text("sft/d2" if chat else "There is no training to watch yet.").first.wait_for()
    script = """() => ["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
      .map(({ name, transferSize }) => [name, transferSize])"""
    loaded: dict[str, int] = dict(view.evaluate(script))
    context.close()
    assert all(name.startswith(f"{address}/") for name in loaded)
    assert all(size > 0 for name, size in loaded.items() if "/static/" in name)
    assert sum(loaded.values()) < MOST
    files = {name.removeprefix(f"{address}/static/") for name in loaded if "/static/" in name}
    assert {f"{page}/main.js", "store.js", "chat.css" if chat else "watch/watch.css"} < files


def test_nobody_else_is_asked_and_nothing_is_run_that_is_text() -> None:
    for path in SOURCES:
        text = path.read_text("utf-8").replace("http://www.w3.org/", "")
        if path.suffix == ".js":
            text = re.sub(r"(?m)^\s*(//|\*|/\*\*).*$", "", text)
            assert not re.search(FORBIDDEN, text), path
            assert not re.search(r"""setAttribute\(["'](style|on)""", text), path
            assert "import(" not in text or all(
                re.match(r'import\("\./', found) for found in re.findall(r"import\(.{0,4}", text)
            )
        else:
            text = re.sub(r'(?m)^@import "\.', "", text)
            assert not re.search(r"https?://|url\(|@import|\sstyle=|\son[a-z]+=", text), path


def test_every_file_is_used() -> None:
    texts = {path: path.read_text("utf-8") for path in SOURCES}
    for path in SOURCES:
        if path.suffix != ".html" and path.name != "service_worker.js":
            assert any(path.name in text for other, text in texts.items() if other != path), path
