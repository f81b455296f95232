"""report.html in a real browser: the first screen has the result, nothing is asked for, a phone needs no sideways
scrolling."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nanochat import report
from tests.report.made import evaluated, everything, score, write

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of a report on a server, which a browser also asks for icons."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    everything()
    names = ("ARC-Easy", "ARC-Challenge", "GSM8K", "HumanEval", "MMLU", "TinyWorld", "SpellingBee")
    long = {"x" * 300: score(0.5, 9), "<script>document.title='owned'</script>": score(0.5, 9)}
    write("chat_eval-sft", "sample", task="GSM8K", prompt="How many?" * 5, text="\u202e" + "y" * 3000, right=True)
    evaluated("chat_eval", "sft", tasks={name: score(0.5, 9, by_category=long) for name in names}, chatcore=0.5)
    path = report.generate(price_per_hour=24.0)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/report.html"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_has_the_result(browser: Browser, address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address, wait_until="networkidle")
    for what in ("h1", ".facts", "table", "figure svg", ".sample"):
        box = page.locator(what).first.bounding_box()
        assert box is not None and box["width"] > 50 and 0 < box["y"] < box["y"] + min(box["height"], 40) < 800
    assert page.locator(".facts").inner_text().split("\n")[:2] == ["Total wall time", "4m18s"]
    assert page.locator("th", has_text="BASE").first.is_visible() and page.locator("td", has_text="0.2565").is_visible()
    # The style is in force, and follows the reader's choice of light or dark.
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(251, 250, 247)", "dark": "rgb(23, 25, 26)"}[scheme]
    assert page.evaluate("getComputedStyle(document.querySelector('svg .line')).stroke") != "none"
    assert page.title() == "d4 · nanochat report"
    assert (said, asked) == ([], [address])
    context.close()


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    page.goto(address)
    for fold in page.locator("summary").all():
        if fold.is_visible():
            fold.click()
    assert page.locator("details[open]").count() > 5
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()
