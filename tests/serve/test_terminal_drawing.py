"""Markdown on a terminal: what it looks like, that it comes at once, and that nothing else steers the terminal."""

from __future__ import annotations

import io
import re
import sys
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanochat.serve.drawing import HELD, Drawing, draws
from nanochat.serve.line import printable

STYLE = re.compile(r"\x1b\[(?:0|[1-49]|36)(?:;(?:[1-4]|9|36))*m")
WHOLE = re.compile(rf"(?:[^\x1b]|{STYLE.pattern}[^\x1b]+\x1b\[0m)*")  # every style ends at once
MARKDOWN = st.lists(
    st.sampled_from(
        [*"ab 1\n\n*_`#>~-+.[]()\\|\t\x1b\x9b漢🙂", "**", "```", "~~", "- ", "# ", "    ", "](", "\r\n", "x" * 60]
    ),
    max_size=60,
).map("".join)


def drawn(text: str, *cuts: int, encoding: str = "utf-8") -> str:
    drawing = Drawing(encoding)
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return "".join(drawing.feed(text[a:b]) for a, b in pairwise(places)) + drawing.end()


def cells(shown: str) -> list[tuple[str, str]]:
    """Each character with the style it is shown in."""
    found, style, at = [], "", 0
    while at < len(shown):
        if code := STYLE.match(shown, at):
            style = "" if code[0] == "\x1b[0m" else code[0]
            at = code.end()
        else:
            found.append((shown[at], style))
            at += 1
    return found


def look(text: str) -> str:
    """As drawn, with <1>bold</> for what is styled."""
    return re.sub(r"\x1b\[([0-9;]+)m", lambda code: "</>" if code[1] == "0" else f"<{code[1]}>", drawn(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a **b *c* d** e", "a <1>b </><1;3>c</><1> d</> e"),
        ("***b***, *i*, _i_ and ~~s~~.", "<1;3>b</>, <3>i</>, <3>i</> and <9>s</>."),
        ("`a*b*` and ``x`y``", "<36>a*b*</> and <36>x`y</>"),
        ("[site](http://x.y) [1] [a] (b)", "<4>site</><2> (http://x.y)</> [1] [a] (b)"),
        (r"\*a\* and a\b", r"*a* and a\b"),
        ("2*3*4 = 24, (a)*(b)*2, 2 * 3 * 4, a**2 + b**2", "2*3*4 = 24, (a)*(b)*2, 2 * 3 * 4, a**2 + b**2"),
        ("snake_case_name and __init__", "snake_case_name and __init__"),
        ("这是**重点**内容", "这是<1>重点</>内容"),
        ("never **closed\nnext", "never **closed\nnext"),
        ("# One `x`\n## Two\n#hash", "<1;4>One </><1;4;36>x</>\n<1>Two</>\n#hash"),
        ("- a\n  * **b**\n1. c\n    d *e*", "• a\n  • <1>b</>\n1. c\n    d <3>e</>"),
        ("> a\n>> b", "<2>│ </>a\n<2>│ </><2>│ </>b"),
        ("a\n\n---\nb", "a\n\n<2>────────</>\nb"),
        ("    x *= 2 *y*", "<36>    x *= 2 *y*</>"),
        ("```python\na = b*c*d\n# e\n```\n*f*", "<2>── python</>\n<36>a = b*c*d</>\n<36># e</>\n<2>──</>\n<3>f</>"),
        ("~~~\n```\n~~~~\nx", "<2>──</>\n<36>```</>\n<2>──</>\nx"),
        ("| a | b |\n|---|---|", "| a | b |\n|---|---|"),
        ("<b>&lt;", "<b>&lt;"),
    ],
)
def test_markdown(text: str, expected: str) -> None:
    assert look(text) == expected


@example(text="````\n", cuts=[4])
@given(text=MARKDOWN, cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_how_it_is_cut_changes_nothing_and_nothing_steers_the_terminal(text: str, cuts: list[int]) -> None:
    shown = drawn(text, *cuts)
    assert cells(shown) == cells(drawn(text))
    assert WHOLE.fullmatch(shown)
    assert printable(STYLE.sub("", shown)) == STYLE.sub("", shown)
    assert shown.count("\n") == text.count("\n")


@given(st.text("abc äöü漢🙂,;:!?\n"))
def test_text_without_marks_is_shown_as_it_is(text: str) -> None:
    assert drawn(text) == text


def test_words_appear_as_they_come() -> None:
    drawing = Drawing()
    assert drawing.feed("One two") == "One two"
    assert drawing.feed(" **thr") == " "
    assert drawing.feed("ee** ") == "\x1b[1mthree\x1b[0m "
    assert drawing.feed("*" + "x" * (HELD - 2)) == ""
    assert drawing.feed("x") == "*" + "x" * (HELD - 1)  # it need not wait longer
    assert drawing.feed("\n```py\nx = 1") == "\n\x1b[2m── py\x1b[0m\n\x1b[36mx = 1\x1b[0m"


def test_a_tool_call_amid_markdown() -> None:
    drawing = Drawing()
    shown = (
        drawing.feed("It *is") + drawing.aside("[6*7*1\x1b[2J = ") + drawing.aside("42] ") + drawing.feed("# **42**.")
    )
    assert shown + drawing.end() == "It *is\x1b[2m[6*7*1[2J = \x1b[0m\x1b[2m42] \x1b[0m# \x1b[1m42\x1b[0m."


def test_a_terminal_without_the_signs() -> None:
    drawn("- a\n> b\n***\n~~~x\n", encoding="latin-1").encode("ascii")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "expected"),
    [
        (Screen(), {"TERM": "xterm"}, True),
        (Screen(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Screen(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Screen(), {"TERM": "dumb"}, False),
        (Screen(), {}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
        (None, {"TERM": "xterm"}, False),
    ],
    ids=["terminal", "empty", "no colour", "dumb", "unknown", "file", "none"],
)
def test_where_it_is_drawn(
    stream: io.StringIO | None, environment: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stream)
    assert draws(sys.stdout) is expected
