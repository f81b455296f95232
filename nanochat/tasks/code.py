"""Where code is in an answer: by Markdown's rules, or else by how Python begins."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

LONGEST = 50_000  # characters of an answer that are looked at
FENCE = re.compile(r"```|~~~")
_MOST_STARTS = 100
_WORDS = "assert async class def del for from global if import nonlocal raise return try while with yield"
_START = re.compile(rf"@|(?:{_WORDS.replace(' ', '|')})\b|[\w.]+[(\[]|[\w., ]+=")
_TAG = re.compile(r"</?[A-Za-z][\w-]*(?:\s[^<>\n]*)?>")
_ESCAPED = re.compile(r"&(?:lt|gt|amp|quot|#\d+);")
_CONSOLE = re.compile(r"^([ \t]*)(?:>>>|\.\.\.)(?: |$)", re.MULTILINE)
_DIFF = re.compile(r"^(?:-.*|@@.*|\+\+\+ .*|[+ ])", re.MULTILINE)
_SPACES = str.maketrans(dict.fromkeys("\u00a0\u2007\u202f\u3000", " ") | dict.fromkeys("\u2028\u2029\u0085", "\n"))


class Piece(NamedTuple):
    """A piece of an answer that may be code. kind: fence, code_block and code_inline of Markdown, or raw."""

    kind: str
    text: str


@cache
def _markdown() -> Any:
    from markdown_it import MarkdownIt  # takes a while to import

    # A fence inside <details> still counts, and code often looks like links and emphasis.
    unused = ["html_block", "html_inline", "reference", "autolink", "link", "image", "entity", "emphasis"]
    return MarkdownIt("commonmark").disable(unused)


def _marked(text: str, depth: int = 3) -> Iterator[Piece]:
    """The code that Markdown finds. A block that holds fences is read as Markdown too: its own fence may be stray."""
    for token in _markdown().parse(text):
        for each in (token, *(token.children or ())):
            if each.type in ("fence", "code_block", "code_inline"):
                yield Piece(each.type, each.content)
            if each.type in ("fence", "code_block") and depth and FENCE.search(each.content):
                yield from _marked(textwrap.dedent(each.content), depth - 1)


def _raw(text: str) -> Iterator[Piece]:
    """The text from each line at which code may begin."""
    lines = text.split("\n")
    starts, before = [0], ""
    for i, line in enumerate(lines):
        goes_in = depth_of(line) > 0 == depth_of(before) and not (
            _START.match(before) and before.rstrip().endswith(":")
        )
        if goes_in or _START.match(line):
            starts.append(i)
        before = line if line.strip() else before
    for i in dict.fromkeys(starts[:_MOST_STARTS]):
        yield Piece("raw", "\n".join(lines[i:]))


def versions(text: str) -> Iterator[str]:
    """An answer unchanged, then other readings of it, in case the earlier ones hold no code."""
    lines = [line for line in text.split("\n") if line.strip()]
    if lines and all(line.startswith(">") and not line.startswith(">>>") for line in lines):
        text = re.sub(r"^> ?", "", text, flags=re.MULTILINE)
    even = text.translate(_SPACES)
    untagged = html.unescape(_TAG.sub("\n", even)).replace("\r", "\n")
    found = [text, even, untagged, _CONSOLE.sub(r"\1", even), _DIFF.sub("", even) if "```diff" in even else even]
    if re.search("</(?:code|pre)>", text) and _ESCAPED.search(text):  # `x &lt; 9` is also Python, with another meaning
        found.insert(0, untagged)
    yield from dict.fromkeys(found)


def pieces(text: str) -> Iterator[Piece]:
    """All that may be code in an answer, the likeliest first."""
    marked = list(_marked(text))
    yield from (piece for piece in marked if piece.kind == "fence")
    yield from _raw(text)
    yield from (piece for piece in marked if piece.kind == "code_block")
    for kind, code in marked:  # a fence on one line is inline code, and its language the first word
        if kind == "code_inline":
            yield Piece(kind, re.sub(r"^(?:python3?|py)\s+", "", code))


def depth_of(line: str) -> int:
    """Characters of a line's indentation."""
    return len(line) - len(line.lstrip(" \t"))
