"""An answer as one text, its tool calls in brackets, as in "That is [12*3 = 36] 36"; and back.

Calls without a result are left out (inference/visible.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from nanochat.conversation import Part, PartType
from nanochat.inference import Token, Visible, visible
from nanochat.tools import calculate

RESULT = re.compile(r" = (-?[0-9]+(?:\.[0-9]+)?)\](?: |\Z)")
LONGEST_CODE = 1000  # characters; the calculator takes no more
MOST_BRACKETS = 4  # before a result, that may be the one that opened the call: code may hold some, in strings
# What may be given to the calculator in one conversation, in characters, each call costing some more: a character takes
# up to ten microseconds, and nobody else computes meanwhile.
MOST_CODE = 50_000
A_CALL = 10


def between(before: PartType, after: PartType) -> str:
    """What stands between two parts of an answer."""
    if (before, after) == ("python", "python_output"):
        return " = "
    return ("" if before == "text" else "] ") + ("[" if after == "python" else "")


class Shown:
    """Feed it the tokens of one answer, get the text to show for each; `end` gives what closes it."""

    def __init__(self) -> None:
        self._visible = Visible()
        self._kind: PartType = "text"
        self._begins = False  # the next text begins a part

    def feed(self, token: Token) -> str:
        return "".join(map(self._seen, self._visible.feed(token)))

    def _seen(self, token: Token) -> str:
        if token.kind == "special":
            self._begins = True
            return ""
        if not self._begins or not token.text:
            return token.text
        before, self._kind, self._begins = self._kind, token.kind, False
        return between(before, token.kind) + token.text

    def end(self) -> str:
        return "".join(map(self._seen, self._visible.end())) + between(self._kind, "text")


def shown(parts: Iterable[Part]) -> str:
    """The whole text of an answer's parts."""
    text, kind = "", "text"
    for part in visible(parts):
        text += between(kind, part.type) + part.text  # type: ignore[arg-type]
        kind = part.type
    return text + between(kind, "text")  # type: ignore[arg-type]


class Reading:
    """Takes texts that `shown` may have made apart again, all those of one conversation.

    What the calculator says is a result is taken for a tool call; all else for text, and so is what comes after far
    more calls than fit a model's context.
    """

    def __init__(self) -> None:
        self._left = MOST_CODE

    def parts(self, text: str) -> tuple[Part, ...]:
        parts: list[Part] = []
        done = 0
        for found in RESULT.finditer(text):
            if self._left <= 0:
                break
            self._left -= A_CALL
            start = self._start(text, max(done, found.start() - LONGEST_CODE - 1), found)
            if start is not None:
                parts.append(Part("text", text[done:start]))
                parts.append(Part("python", text[start + 1 : found.start()]))
                parts.append(Part("python_output", found[1]))
                done = found.end()
        parts.append(Part("text", text[done:]))
        return tuple(part for part in parts if part.text) or (Part("text", ""),)

    def _start(self, text: str, first: int, found: re.Match[str]) -> int | None:
        """The bracket that opens the call with this result, not before `first`."""
        for start in islice(_backwards(text, "[", first, found.start()), MOST_BRACKETS):
            code = text[start + 1 : found.start()]
            self._left -= len(code) + A_CALL
            if calculate(code) == found[1]:
                return start
        return None


def _backwards(text: str, character: str, first: int, end: int) -> Iterable[int]:
    while (end := text.rfind(character, first, end)) >= 0:
        yield end
