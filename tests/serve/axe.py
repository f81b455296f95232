"""axe, which finds what keeps people from using a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serve.npm import package

if TYPE_CHECKING:
    from playwright.sync_api import Page

VERSION = "4.14.1"
WIDTHS = (1000, 390)
COLOURS = ("light", "dark")

ASK = """
async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
    .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target.join(" ")}: ${node.failureSummary}`));
}
"""


class Axe:
    """Looks at pages as they are at that moment."""

    def __init__(self, script: Path) -> None:
        self.source = script.read_text("utf-8")

    def __call__(self, page: Page) -> list[str]:
        """What is serious or critical."""
        if not page.evaluate("Boolean(window.axe)"):
            page.evaluate(f"() => {{ {self.source}\n }}")  # not by a tag, which the page's policy would not let in
        # What is on its way in or out is seen when it is there: half of a colour has no contrast.
        page.evaluate("async () => { for (const one of document.getAnimations()) one.finish?.call(one) }")
        found: list[str] = page.evaluate(ASK)
        return found

    def everywhere(self, page: Page) -> list[str]:
        """In both colours, on a desktop and on a phone."""
        found = []
        size = page.viewport_size
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 760})
            for colours in COLOURS:
                page.emulate_media(color_scheme=colours, reduced_motion="reduce")
                found += [f"{width} px, {colours}: {one}" for one in self(page)]
        if size:
            page.set_viewport_size(size)
        return found


@pytest.fixture(scope="session")
def axe() -> Axe:
    return Axe(package("axe-core", VERSION) / "axe.min.js")
