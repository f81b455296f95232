"""What is measured in the browser."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from benchmarks.result import median

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
READY = {  # what is there when the page can be used
    "/": "() => document.querySelector('#model')?.textContent.includes('sft/d2')",
    "/train": "() => document.querySelectorAll('#charts path').length > 0",
}
WEIGHT = """["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
  .reduce((all, { transferSize }) => all + transferSize, 0)"""
# From a key to the frame after the one that its letter is drawn in: a little more than what a person waits.
TYPING = """() => {
  window.typed = [];
  document.addEventListener("keydown", (event) => {
    requestAnimationFrame(() => setTimeout(() => window.typed.push(performance.now() - event.timeStamp)));
  }, true);
}"""
MESSAGE = "textarea#input"


def load(context: BrowserContext, address: str, path: str) -> dict[str, float]:
    """One load, in milliseconds from the begin of the navigation."""
    page = context.new_page()
    page.goto(address + path)
    page.wait_for_function(READY[path], polling=5)
    ready = page.evaluate("performance.now()")
    page.wait_for_function(f"() => {PAINTED}")
    found = {"first_paint_ms": page.evaluate(PAINTED), "ready_ms": ready, "bytes": page.evaluate(WEIGHT)}
    found["files"] = page.evaluate("performance.getEntriesByType('resource').length")
    page.close()
    return found


def loads(browser: Browser, address: str, path: str, times: int) -> dict[str, Any]:
    """Of browsers that have never been here, and of one that has. The first load, of a cold server, is left out."""
    fresh, again = [], []
    for n in range(times + 1):
        context = browser.new_context(viewport={"width": 1200, "height": 800})
        first, second = load(context, address, path), load(context, address, path)
        context.close()
        if n:
            fresh.append(first)
            again.append(second)
    paints = [one["first_paint_ms"] for one in fresh]
    return {
        "first_paint_ms": median(paints),
        "slowest_first_paint_ms": max(paints),
        "ready_ms": median([one["ready_ms"] for one in fresh]),
        "first_paint_again_ms": median([one["first_paint_ms"] for one in again]),
        "ready_again_ms": median([one["ready_ms"] for one in again]),
        "bytes": fresh[0]["bytes"],
        "bytes_again": again[0]["bytes"],
        "files": fresh[0]["files"],
    }


def open_chat(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    page.goto(address)
    page.wait_for_function(READY["/"])
    page.evaluate(TYPING)
    return page


def ask(page: Page) -> None:
    """Until the long answer is there, and the paced one goes on."""
    page.locator(MESSAGE).fill("Tell me everything.")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelector('.message.assistant')?.textContent.length > 40000", timeout=60_000
    )
    page.wait_for_timeout(1000)


def streaming(page: Page, seconds: float) -> dict[str, float]:
    """What the page's thread works for a token, while nothing else is done."""
    client = page.context.new_cdp_session(page)
    client.send("Performance.enable", {"timeDomain": "threadTicks"})  # CPU time, whatever else the machine does

    def now() -> dict[str, float]:
        found = {one["name"]: one["value"] for one in client.send("Performance.getMetrics")["metrics"]}
        return {
            name: found[name] for name in ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
        }

    letters = "document.querySelector('.message.assistant').textContent.length"
    before, begin, clock = now(), page.evaluate(letters), time.monotonic()
    page.wait_for_timeout(1000 * seconds)
    after, end, passed = now(), page.evaluate(letters), time.monotonic() - clock
    per_token = {name: (after[name] - before[name]) * 1000 / (passed * 100) for name in after}
    return {
        "ms_per_token": per_token["TaskDuration"],
        "script_ms_per_token": per_token["ScriptDuration"],
        "layout_ms_per_token": per_token["LayoutDuration"] + per_token["RecalcStyleDuration"],
        "share_of_a_core": (after["TaskDuration"] - before["TaskDuration"]) / passed,
        "letters_at_begin": begin,
        "letters_per_s": (end - begin) / passed,
    }


def typing(page: Page, keys: int) -> dict[str, float]:
    """Letters into the composer, at a good typist's pace."""
    page.locator(MESSAGE).focus()
    page.evaluate("window.typed.length = 0")
    for n in range(keys):
        page.keyboard.press("abcdefgh "[n % 9])
        page.wait_for_timeout(60)
    page.wait_for_function("(keys) => window.typed.length >= keys", arg=keys)
    times = sorted(page.evaluate("window.typed"))
    assert len(page.locator(MESSAGE).input_value()) == keys
    page.locator(MESSAGE).fill("")
    return {"median_ms": median(times), "p95_ms": times[int(0.95 * len(times))], "slowest_ms": times[-1]}
