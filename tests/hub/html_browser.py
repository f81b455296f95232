"""The exported file's JavaScript in a real browser, and models for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from playwright.sync_api import Browser, Page

from nanochat.hub.html_file import header_of
from nanochat.hub.html_script import bundle
from nanochat.hub.html_weights import TableBits, make_payload
from nanochat.model import GPT
from nanochat.tokenizer import Tokenizer

PROBE = Path(__file__).with_name("html_probe.js")
MANIFEST: Any = SimpleNamespace(stage="sft", tag="d", step=7)


class Probe:
    """The modules of hub/html, called by name (see html_probe.js)."""

    def __init__(self, browser: Browser) -> None:
        self.page: Page = browser.new_page()
        self.page.add_script_tag(content=bundle(PROBE))

    def call(self, name: str, *arguments: Any) -> Any:
        # As text: the client would take every number of a long list apart.
        script = "async ([name, given]) => JSON.stringify(await probe[name](...JSON.parse(given)) ?? null)"
        return json.loads(self.page.evaluate(script, [name, json.dumps(arguments)]))

    def load(self, model: GPT, tokenizer: Tokenizer, table_bits: TableBits = 12, plain: bool = False) -> Probe:
        """plain: without WebAssembly."""
        payload = make_payload(model, tokenizer, table_bits)
        self.call("load", header_of(model, tokenizer, MANIFEST, payload), payload.blocks, plain)
        return self

    def answer(self, **ask: Any) -> Answer:
        return Answer(self.call("answer", ask))


class Answer:
    def __init__(self, said: Sequence[dict[str, Any]]) -> None:
        assert said[-1]["end"]["error"] is None, said[-1]
        self.start, self.end = said[0]["start"], said[-1]["end"]
        self.tokens = [token for message in said[1:-1] for token in message["tokens"]]
        self.ids = [token[0] for token in self.tokens]
        self.text = "".join(token[1] for token in self.tokens if token[2] == "text")
