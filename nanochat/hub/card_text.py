"""Pieces of Markdown in which a stranger's text is only text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

LONGEST = 80  # characters of anything that is shown
MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~$@:^])")


def sized(value: Any, most: int = LONGEST) -> str:
    """One short line of printable characters: no line break that would end a table or the metadata, and none of the
    invisible characters that turn text around."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)[: 4 * most]).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def plain(value: Any) -> str:
    """Text that Markdown and HTML show as it is."""
    text = MARKUP.sub(r"\\\1", sized(value)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?i)(www)\.", r"\1\\.", text)  # would become a link


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def listed(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
