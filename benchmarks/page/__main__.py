"""The chat page and the watch page in Chromium: how soon they are there, and whether they keep up.

A server in a process of its own has a model that says what a script says. First paint: of browsers that have never been
here (median, and the slowest), over the loopback. Streaming: at 100 tokens a second, into an answer of 50,000 letters
with headings, lists, code and tables; what the page's thread works for one token. Typing: from a key to the frame after
the one in which its letter stands, with and without such an answer being written.

    python -m benchmarks.page --json result.json
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAINT = 200.0  # ms within which a page shows itself
KEYS = 100.0  # ms within which 95% of the letters stand
WEIGHT = 150_000  # bytes over the wire


@dataclass
class Config:
    loads: int = 15
    """Loads of each page by a new browser, and as many by one that knows it."""
    seconds: float = 10.0
    """How long the streaming is measured."""
    keys: int = 150
    """Letters that are typed, twice."""
    json: Path | None = None
    """Write the results to this file."""


def run(config: Config) -> None:
    from benchmarks.browser import chromium
    from nanochat.console import UserError

    if config.loads < 1 or config.keys < 1 or not config.seconds > 0:
        raise UserError("nothing can be measured so", "Give --loads and --keys of 1 or more, --seconds above 0")
    program = chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UserError("Playwright is not installed", "Install it: pip install playwright") from None
    from benchmarks.page import browser as measures
    from benchmarks.page.server import LONG, PACE, Server
    from benchmarks.result import BenchmarkResult
    from nanochat.console import say

    ours: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for name, path in (("chat", "/"), ("watch", "/train")):
            ours[name] = measures.loads(browser, server.address, path, config.loads)
            say(f"{name}: {_told(ours[name])}")
        context = browser.new_context(viewport={"width": 1200, "height": 800})
        page = measures.open_chat(context, server.address)
        ours["typing"] = measures.typing(page, config.keys)
        say(f"typing: {_told(ours['typing'])}")
        measures.ask(page)
        ours["streaming"] = measures.streaming(page, config.seconds)
        say(f"streaming: {_told(ours['streaming'])}")
        ours["typing_while_streaming"] = measures.typing(page, config.keys)
        say(f"typing while streaming: {_told(ours['typing_while_streaming'])}")
        browser.close()
    checks = {
        f"{name}: first paint within {PAINT:g} ms": ours[name]["first_paint_ms"] < PAINT for name in ("chat", "watch")
    }
    checks |= {f"{name}: less than {WEIGHT:,} bytes": ours[name]["bytes"] < WEIGHT for name in ("chat", "watch")}
    for name in ("typing", "typing_while_streaming"):
        checks[f"{name}: 95% of the letters within {KEYS:g} ms"] = ours[name]["p95_ms"] < KEYS
    checks["streaming: it kept up"] = ours["streaming"]["letters_per_s"] > 0.7 * PACE * 4  # marks are not shown
    settings: dict[str, Any] = {
        "loads": config.loads,
        "seconds": config.seconds,
        "keys": config.keys,
        "letters": LONG,
        "tokens_per_s": PACE,
    }
    settings["browser"] = "Chromium, headless"
    BenchmarkResult("page", ours, {}, {}, checks, settings).conclude(config.json)


def _told(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items())


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.page")
