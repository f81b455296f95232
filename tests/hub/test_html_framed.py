"""The exported file in a frame of another page, as a Space shows it, and in a browser with other habits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from nanochat.hub import export_html, html_file
from tests.hub import exporting
from tests.hub.html_browser import Probe


@pytest.mark.parametrize("sandbox", ["allow-scripts", "allow-scripts allow-same-origin"])
def test_in_a_frame(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: str) -> None:
    """Without an origin there is no storage, and no form may be sent."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setattr(html_file, "DEFAULTS", html_file.DEFAULTS | {"temperature": 0.0, "max_tokens": 20})
    exporting.write(exporting.make(exporting.SHAPES["heads"], silent=False))
    file = export_html("sft", tmp_path / "index.html").read_text()
    page, problems = browser.new_page(), list[Any]()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
    source = f'sandbox="{sandbox}" src="https://b.test/index.html"'
    frame = f'<!doctype html><link rel="icon" href="data:,"><iframe width="900" height="600" {source}></iframe>'
    page.route("https://a.test/", lambda route: route.fulfill(body=frame, content_type="text/html"))
    page.route("https://b.test/index.html", lambda route: route.fulfill(body=file, content_type="text/html"))
    page.goto("https://a.test/")
    inside = page.frame_locator("iframe")
    answers = inside.locator(".message.assistant .body:not(:empty)")
    inside.locator("#input").fill("a fox")
    inside.locator("#send:enabled").click()
    answers.first.wait_for(state="attached")
    inside.locator("#stop").wait_for(state="hidden")
    inside.locator("#input").press_sequentially("a hen")
    inside.locator("#input").press("Enter")
    answers.nth(1).wait_for(state="attached")
    inside.locator("#stop").wait_for(state="hidden")
    inside.get_by_role("button", name="Edit").last.click()
    inside.get_by_label("Your message").fill("a cow")
    inside.get_by_label("Your message").press("Enter")
    inside.get_by_text("2/2").first.wait_for()
    inside.locator("#stop").wait_for(state="hidden")
    own = page.frames[1].evaluate("origin")
    assert own == ("null" if sandbox == "allow-scripts" else "https://b.test")
    assert not problems, problems
    page.close()


def test_a_browser_that_reads_no_blobs_in_a_file_from_the_disk(browser: Browser) -> None:
    """As WebKitGTK 2.50: "NotReadableError: The I/O read operation failed"."""
    probe = Probe(browser)
    refusal = "() => { throw new Error('not readable'); }"
    probe.page.evaluate(f"void (Blob.prototype.stream = Blob.prototype.arrayBuffer = {refusal})")
    probe.load(exporting.make(exporting.SHAPES["heads"], silent=False), exporting.tokenizer())
    assert probe.call("encode", ["a fox"])
    probe.page.close()
