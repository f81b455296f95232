"""The chat page while the server is away, in a real browser; and that no file of before hides what is there now."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nanochat.inference import Token
from nanochat.serve import Access, ModelInfo, create_app, files, listen, offline, url
from tests.serve.browsing import send

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

READY = "navigator.serviceWorker.ready.then((registration) => registration.active.state)"


@contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Runs the app, which ends when the block does."""
    import uvicorn

    address = listen("127.0.0.1", port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [address]}, daemon=True)
    thread.start()
    try:
        yield url(address)
    finally:
        server.should_exit = True
        thread.join(20)
        address.close()


@pytest.fixture
def made(scripted: Any, info: ModelInfo) -> Callable[..., FastAPI]:
    return lambda **more: create_app(scripted(lambda request: [Token(0, "So it is.", "text", 0)]), info, **more)


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the pages' files that may be changed."""
    copy = tmp_path / "static"
    shutil.copytree(files.STATIC, copy)
    for module in (files, offline):
        monkeypatch.setattr(module, "STATIC", copy)
    monkeypatch.setattr("nanochat.serve.offline.SCRIPT", copy / "service_worker.js")
    return copy


def opened(context: BrowserContext, address: str) -> Page:
    """The page, with its files kept."""
    page = context.new_page()
    page.goto(address)
    page.get_by_text("sft/d2").first.wait_for(state="attached")
    until(page, "navigator.serviceWorker.ready.then((one) => one.active.state === 'activated')")
    return page


def until(page: Page, promise: str, arg: object = None) -> None:
    """Waits for a promise of truth: `wait_for_function` takes the promise itself for true."""
    for _ in range(300):
        if page.evaluate(promise, arg):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"it never came true: {promise}")


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_the_page_opens_while_the_server_is_away(context: BrowserContext, made: Callable[..., FastAPI]) -> None:
    with serving(made()) as address:
        page = opened(context, address)
        send(page, "is it so?")
        page.get_by_text("So it is.").wait_for()
    page.reload()
    page.get_by_text("The server cannot be reached.").wait_for()
    page.get_by_text("So it is.").wait_for()  # the address names the conversation
    other = context.new_page()
    other.goto(f"{address}/")
    other.get_by_role("link", name="is it so?").click()
    other.get_by_text("So it is.").wait_for()
    for width in (1000, 390):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1000, "height": 700})
    with serving(made(), port_of(address)):
        page.get_by_text("The server cannot be reached.").wait_for(state="detached")
        send(page, "and now?")
        page.locator(".message.assistant").nth(1).get_by_text("So it is.").wait_for()


def test_only_our_own_files_are_kept(context: BrowserContext, made: Callable[..., FastAPI]) -> None:
    with serving(made(access=Access(loopback=True))) as address:
        page = opened(context, address)
        send(page, "secret?")
        page.get_by_text("So it is.").wait_for()
        page.reload()
        page.get_by_text("So it is.").wait_for()
        kept = page.evaluate(
            """async () => {
              const found = [];
              for (const name of await caches.keys()) {
                for (const request of await (await caches.open(name)).keys()) found.push(new URL(request.url).pathname);
              }
              return found;
            }"""
        )
        paths = {path for path in kept if not path.startswith("/page/")}
        assert paths == set(offline.Editions().now().digests)
        assert "/" in paths and not any(path.endswith("watch.html") or "login" in path for path in paths)
        ids = [path for path in kept if path.startswith("/page/")]
        assert all(re.fullmatch("/page/[0-9a-f-]{36}", path) for path in ids)  # of tabs, and not what they asked for
        page.goto(f"{address}/train")
        page.get_by_text("There is no training").or_(page.locator("#charts")).first.wait_for()
    with pytest.raises(Exception, match="ERR_CONNECTION_REFUSED"):
        page.goto(f"{address}/train")


def test_what_is_kept_never_hides_the_login(context: BrowserContext, made: Callable[..., FastAPI]) -> None:
    with serving(made(access=Access("key", loopback=False))) as address:
        page = context.new_page()
        page.goto(f"{address}/login?key=key")
        page.get_by_text("sft/d2").first.wait_for(state="attached")
        page.evaluate(READY)
        context.clear_cookies()
        page.goto(f"{address}/")
        page.get_by_label("The key of this server").wait_for()
        assert page.url == f"{address}/login"
        page.get_by_label("The key of this server").fill("key")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("sft/d2").first.wait_for(state="attached")


def test_who_is_not_logged_in_gets_no_worker(made: Callable[..., FastAPI]) -> None:
    app = made(access=Access("key", loopback=False))
    with TestClient(app) as client:
        assert client.get("/service-worker.js").status_code == 401
        headers = {"Authorization": "Bearer key"}
        answer = client.get("/service-worker.js", headers=headers)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/javascript")
        assert answer.headers["cache-control"] == "no-cache"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert client.get("/", headers=headers).headers["x-nanochat-files"] in answer.text


@pytest.mark.slow
def test_after_an_update_a_page_has_files_of_one_version(
    context: BrowserContext, made: Callable[..., FastAPI], own_files: Path
) -> None:
    """The files say which version they are of, all of them."""

    def release(version: str) -> None:
        for name in ("chat/main.js", "chat/tree.js", "chat/look/start.js"):
            path = own_files / name
            text = re.sub(r"\n;\(globalThis.versions .*", "", path.read_text())
            path.write_text(f'{text}\n;(globalThis.versions ??= new Set()).add("{version}");\n')

    def versions(page: Page) -> list[str]:
        return page.evaluate("[...globalThis.versions].sort()")

    def version_of(page: Page) -> str:
        return page.evaluate("fetch('/').then((answer) => answer.headers.get('x-nanochat-files'))")

    release("1")
    with serving(made()) as address:
        old = opened(context, address)
        first = version_of(old)
        old.reload()  # now its files come from the set
        old.get_by_text("sft/d2").first.wait_for(state="attached")
    away = context.new_page()
    away.goto(f"{address}/")  # from the set alone
    away.get_by_text("The server cannot be reached.").wait_for()
    assert versions(old) == versions(away) == ["1"]

    release("2")
    with serving(made(), port_of(address)):
        new = context.new_page()
        new.goto(f"{address}/")
        new.get_by_text("sft/d2").first.wait_for(state="attached")
        assert versions(new) == ["2"]  # the page that is there now, while only the files of before are kept
        second = version_of(new)
        assert second != first
        until(new, "name => caches.has(name)", f"nanochat-files-{second}")
        until(new, "navigator.serviceWorker.getRegistration().then((one) => !one.installing && !one.waiting)")
        until(new, "navigator.serviceWorker.ready.then((one) => one.active.state === 'activated')")
        for page in (old, away, new):  # what is loaded later
            page.evaluate("import('/static/chat/look/start.js').then(() => {})")
        assert (versions(old), versions(away), versions(new)) == (["1"], ["1"], ["2"])
        old.close()
        away.close()
    new.reload()
    new.get_by_text("The server cannot be reached.").wait_for()
    assert versions(new) == ["2"]

    release("3")
    with serving(made(), port_of(address)) as address:
        new.reload()
        new.get_by_text("sft/d2").first.wait_for(state="attached")
        until(new, "name => caches.has(name)", f"nanochat-files-{version_of(new)}")
        until(new, "name => caches.has(name).then((has) => !has)", f"nanochat-files-{first}")


def test_files_that_are_not_the_announced_ones_are_not_kept(
    context: BrowserContext, made: Callable[..., FastAPI], own_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edition = offline.Editions().now()
    wrong = offline.Edition("wrong", {**edition.digests, "/static/chat/tree.js": "0" * 64})
    monkeypatch.setattr(offline.Editions, "now", lambda self: wrong)
    with serving(made()) as address:
        page = context.new_page()
        page.goto(address)
        page.get_by_text("sft/d2").first.wait_for(state="attached")
        refused = page.evaluate(
            """() => new Promise((resolve) => {
              const look = (one) => {
                const worker = one.installing ?? one.waiting ?? one.active;
                if (!worker || worker.state === "redundant") return resolve(worker?.state ?? "none");
                worker.addEventListener("statechange", () => resolve(worker.state));
              };
              navigator.serviceWorker.register("/service-worker.js").then(look);
            })"""
        )
        assert refused == "redundant"
        assert page.evaluate("caches.keys()") == []


def test_all_that_the_page_may_load_is_kept() -> None:
    kept = offline.Editions().now().digests
    asked = set(re.findall('(?:href|src)="(/static/[^"]+)"', (files.STATIC / "index.html").read_text()))
    for script in (files.STATIC / "chat").rglob("*.js"):
        for name in re.findall(r'(?:from |import\()"(\.[^"]+)"', script.read_text()):
            asked.add(f"/static/{(script.parent / name).resolve().relative_to(files.STATIC.resolve()).as_posix()}")
    assert len(asked) > 40 and asked <= kept.keys()


def test_editions_follow_the_files(own_files: Path) -> None:
    editions = offline.Editions()
    before = editions.now()
    assert editions.now() is before
    (own_files / "chat" / "tree.js").write_text("changed")
    after = editions.now()
    assert after.version != before.version and after.digests.keys() == before.digests.keys()
    (own_files / "chat" / "more.js").write_text("more")
    assert "/static/chat/more.js" in editions.now().digests
    (own_files / "watch" / "main.js").write_text("of another page")
    (own_files / "service_worker.js").write_text("another worker")
    assert editions.now().digests.keys() - before.digests.keys() == {"/static/chat/more.js"}
