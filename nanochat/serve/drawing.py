"""Markdown drawn on a terminal while it comes.

What is drawn stays as it is: nothing moves the cursor back. So text appears at once, whatever the terminal's width and
whatever is typed meanwhile, and a copied line is a whole line. A mark that may begin something (a `**`) is held back
until its end is there, and shown as it is when none comes. Tables are shown as they are written.
"""

from __future__ import annotations

import os
import re
from typing import TextIO

from nanochat.serve.line import is_terminal, printable

HELD = 200  # characters in which a mark has to find its end
BOLD, DIM, ITALIC, UNDERLINED, CYAN, STRUCK = ("1",), ("2",), ("3",), ("4",), ("36",), ("9",)
MARK = re.compile(r"[\\`*_~\[]")
# As in CommonMark, but "2*3*4", "(a)*(b)*c", "snake_case_name" and "__init__" are no emphasis.
SPAN = re.compile(
    r"""
      \\(?P<escaped>[!-/:-@\[-`{-~])
    | (?<!`)(?P<ticks>`+)(?!`)(?P<code>.+?)(?<!`)(?P=ticks)(?!`)
    | (?<![A-Za-z0-9*)\]])\*\*(?=\*?[^\s*])(?P<bold>.+?)(?<=\S)\*\*(?!\*)
    | (?<![A-Za-z0-9*)\]])\*(?=[^\s*])(?P<italic>.+?)(?<=[^\s*])\*(?![A-Za-z0-9*(])
    | (?<![A-Za-z0-9_])_(?=[^\s_])(?P<slanted>.+?)(?<=[^\s_])_(?![A-Za-z0-9_])
    | (?<!~)~~(?=[^\s~])(?P<struck>.+?)(?<=[^\s~])~~(?!~)
    | \[(?P<label>[^\[\]]+)\]\((?P<target>[^()\s]+)\)
    """,
    re.VERBOSE,
)
# A mark that cannot begin a span, whatever follows.
HOPELESS = re.compile(
    r"""
      \\[^!-/:-@\[-`{-~]
    | (?<=`)`
    | (?<=[A-Za-z0-9*)\]])\* | \*+\s
    | (?<=[A-Za-z0-9_])_ | _[\s_]
    | (?<=~)~ | ~[^~] | ~~[\s~]
    | \[(?: \] | [^\[\]]+(?: \[ | \][^(] | \]\((?: [)\s(] | [^()\s]+[\s(] ) ) | \[ )
    """,
    re.VERBOSE,
)
UNDECIDED = re.compile(r"[ \t]*(?:#{0,6}|([-*_])(?:[ \t]*\1)*[ \t]*|\+[ \t]*|>|[`~]{1,2}|`{3,}[^`]*|~{3,}.*)")
FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^`]*)")
RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*")
HEADING = re.compile(r" {0,3}(?P<level>#{1,6})(?:[ \t]|$)")
QUOTE = re.compile(r" {0,3}> ?")
BULLET = re.compile(r"(?P<indent>[ \t]*)[-*+][ \t]+(?=\S|$)")
ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)")
INDENTED = re.compile(r"(?: {4}| {0,3}\t)[ \t]*\S")

Style = tuple[str, ...]  # parameters of the escape sequence that begins it


def draws(stream: TextIO | None) -> bool:
    """Whether to use styles: not in a file or a pipe, on a terminal that has none, or against the person's wish."""
    plain = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown") or os.environ.get("NO_COLOR")
    return is_terminal(stream) and not plain


class Plain:
    """Text as it is, without control characters."""

    def feed(self, text: str) -> str:
        """What to print now that `text` has come."""
        return printable(text)

    def aside(self, text: str) -> str:
        """What to print for something that is no Markdown, in the middle of it."""
        return printable(text)

    def end(self) -> str:
        """What is left to print."""
        return ""


class Drawing(Plain):
    """Markdown with the terminal's styles. How the text is cut into pieces changes nothing.

    encoding: of the terminal; without the characters for bullets and rules, ASCII is used.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self._bullet, self._bar, self._dash = _signs(encoding)
        self._line = ""
        self._at = 0  # what is drawn of it
        self._begins = True  # what kind of line it is, is not known yet
        self._fence = ""  # what opened the block of code that this is in
        self._in_list = False
        self._literal = False  # the line has no marks
        self._style: Style = ()  # of the line

    def feed(self, text: str) -> str:
        drawn = []
        for piece in re.findall("[^\n]*\n|[^\n]+", printable(text)):
            self._line += piece.removesuffix("\n")
            ended = piece.endswith("\n")
            drawn.append(self._advance(ended))
            if ended:
                drawn.append("\n")
                self._next_line()
        return "".join(drawn)

    def aside(self, text: str) -> str:
        if not text:
            return ""
        held = self._advance(ended=True)
        self._line, self._at, self._begins = "", 0, False
        return held + paint(printable(text), DIM)

    def end(self) -> str:
        return self._advance(ended=True)

    def _next_line(self) -> None:
        if ITEM.match(self._line):
            self._in_list = True
        elif self._line[:1].strip():
            self._in_list = False
        self._line, self._at, self._begins = "", 0, True
        self._literal, self._style = False, ()

    def _advance(self, ended: bool) -> str:
        """Draw as much of the line as is certain; all of it if it has ended."""
        opening = ""
        while self._begins:
            rest = self._line[self._at :]
            if not ended and len(rest) < HELD and self._undecided(rest):
                return opening
            opening += self._open(rest[:HELD], whole=ended and len(rest) < HELD)
        if self._literal:
            drawn, self._at = paint(self._line[self._at :], self._style), len(self._line)
        else:
            drawn, self._at = spans(self._line, self._at, ended, self._style)
        return opening + drawn

    def _undecided(self, head: str) -> bool:
        """Whether more of the line is needed to tell what kind it is."""
        if self._fence:
            return re.fullmatch(rf" {{0,3}}{self._fence[0]}*[ \t]*", head) is not None
        return UNDECIDED.fullmatch(head) is not None

    def _open(self, head: str, whole: bool) -> str:
        """Draw what tells the kind of a line. head: as much of it as counts; whole: that is the line."""
        self._begins = False
        if self._fence:
            self._literal, self._style = True, CYAN
            closing = head.strip()
            if not (whole and closing.startswith(self._fence) and not closing.strip(self._fence[0])):
                return ""
            self._fence = ""
            return self._replaced(self._dash * 2)
        if whole and (found := FENCE.fullmatch(head)):
            self._fence = found["fence"]
            return self._replaced(f"{self._dash * 2} {found['info']}".rstrip())
        if whole and RULE.fullmatch(head):
            return self._replaced(self._dash * 8)
        if found := HEADING.match(head):
            self._style = BOLD + UNDERLINED if len(found["level"]) == 1 else BOLD
            self._at += found.end()
        elif found := QUOTE.match(head):
            self._begins = True
            self._at += found.end()
            return paint(f"{self._bar} ", DIM)
        elif INDENTED.match(head) and not self._in_list:
            self._literal, self._style = True, CYAN
        elif found := BULLET.match(head):
            self._at += found.end()
            return f"{found['indent']}{self._bullet} "
        return ""

    def _replaced(self, text: str) -> str:
        """A dim text in place of the line."""
        self._at = len(self._line)
        return paint(text, DIM)


def spans(text: str, at: int, ended: bool, style: Style) -> tuple[str, int]:
    """Text of a line from `at` on as it is drawn, and up to where that is certain."""
    drawn = []
    while at < len(text):
        mark = MARK.search(text, at)
        start = mark.start() if mark else len(text)
        drawn.append(paint(text[at:start], style))
        at = start
        if not mark:
            break
        span = SPAN.match(text, at, at + HELD)
        certain = ended or at + HELD <= len(text)
        if span and (certain or span.end() < len(text)):
            drawn.append(_span(span, style))
            at = span.end()
        elif not span and (certain or HOPELESS.match(text, at)):
            drawn.append(paint(text[at], style))
            at += 1
        else:
            break
    return "".join(drawn), at


def _span(span: re.Match[str], style: Style) -> str:
    found = {name: text for name, text in span.groupdict().items() if text is not None}
    match found:
        case {"escaped": text}:
            return paint(text, style)
        case {"code": text}:
            padded = text[0] == text[-1] == " " and text.strip()
            return paint(text[1:-1] if padded else text, style + CYAN)
        case {"label": label, "target": target}:
            address = "" if label == target else paint(f" ({target})", DIM)
            return spans(label, 0, True, style + UNDERLINED)[0] + address
        case {"bold": text}:
            return spans(text, 0, True, style + BOLD)[0]
        case {"struck": text}:
            return spans(text, 0, True, style + STRUCK)[0]
    return spans(found.get("italic") or found["slanted"], 0, True, style + ITALIC)[0]


def paint(text: str, style: Style) -> str:
    return f"\x1b[{';'.join(style)}m{text}\x1b[0m" if text and style else text


def _signs(encoding: str) -> tuple[str, str, str]:
    signs = ("•", "│", "─")
    try:
        "".join(signs).encode(encoding)
    except UnicodeError:
        return ("*", "|", "-")
    return signs
