"""The calculator agrees with Python on what is legal and is quiet and quick on everything else."""

from __future__ import annotations

import random
import string
import sys
import tracemalloc
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.tools import calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("48/2", "24"),
        ("12/60", "0.2"),
        ("48 + 24", "72"),
        ("1,234,567 + 1", "1234568"),
        ("1,000.50 * 2", "2001"),
        ("0.1 + 0.2", "0.3"),
        ("1/3*3", "1"),
        ("10/3", "3.3333333333"),
        ("-10/3", "-3.3333333333"),
        ("2/3", "0.6666666667"),
        ("1/1000000000000", "0.000000000001"),
        ("-2**2", "-4"),
        ("2**-1", "0.5"),
        ("2**3**2", "512"),
        ("2**0.5", "1.4142135624"),
        ("--3", "3"),
        ("-7 % 3", "2"),
        ("7 // 2", "3"),
        (".5 + 5.", "5.5"),
        ("(1 + 2) * (3 - 4)", "-3"),
        ("'strawberry'.count('r')", "3"),
        ('"a, b, c".count(",")', "2"),
        ('len("hello")', "5"),
        ('len("hello") * 2 + "aa".count("a")', "12"),
        ('"".count("")', "1"),
        ("(-1)**999999999999", "-1"),
        ("0**0", "1"),
        ("  5\n", "5"),
    ],
)
def test_legal(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "1 +",
        "1 2",
        "12,34",
        "1,0000",
        "1/0",
        "1 % 0",
        "1 // 0",
        "0**-1",
        "(-2)**0.5",
        "2**99999",
        "9**9**9",
        "99999999999**999999",
        "9" * 700,
        "2" * 5000,
        "(" * 500 + "1" + ")" * 500,
        "-" * 500 + "1",
        "'abc'",
        "'abc' + 'd'",
        "'abc'.upper()",
        "'abc'.count(1)",
        "'abc'.count('a'",
        "'a\\'b'.count('b')",
        "len(3)",
        "lens('a')",
        "__import__('os')",
        "(1).__class__",
        "print(1)",
        "1e5",
        "٣ + 1",
        "1 = 1",
        "x",
    ],
)
def test_illegal(expression: str) -> None:
    assert calculate(expression) is None


def _expressions() -> st.SearchStrategy[str]:
    numbers = st.integers(0, 999).map(str) | st.decimals("0", "99", places=2).map(str)
    counts = st.builds("'{}'.count('{}')".format, st.text("abc", max_size=8), st.text("abc", min_size=1, max_size=2))
    lengths = st.text(string.ascii_letters + " ,.", max_size=9).map('len("{}")'.format)
    return st.recursive(
        numbers | counts | lengths,
        lambda inner: (
            st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner)
            | st.builds("-{}".format, inner)
            | st.builds("({})**{}".format, inner, st.integers(0, 4))
        ),
        max_leaves=6,
    )


def _python_value(expression: str) -> Fraction | None:
    """What Python says, each number literal being made an exact fraction."""
    tokens, literal, quoted = "", "", ""
    for character in expression + " ":
        if not quoted and (character.isdigit() or character == "."):
            literal += character
            continue
        tokens += f"F('{literal}')" if literal and literal != "." else literal
        literal = ""
        if character in "'\"":
            quoted = "" if quoted else character
        tokens += character
    try:
        return Fraction(eval(tokens, {"F": Fraction, "len": len}))  # noqa: S307 - Python itself is the reference
    except ZeroDivisionError:
        return None


@given(_expressions())
def test_equals_python(expression: str) -> None:
    expected = _python_value(expression)
    answer = calculate(expression)
    if expected is None:
        assert answer is None
    else:
        assert answer is not None
        error = abs(Fraction(answer) - expected)
        assert error == 0 if expected.denominator == 1 else error <= Fraction(1, 10**10)


@given(st.text())
def test_any_text_is_survived(text: str) -> None:
    result = calculate(text)
    assert result is None or Fraction(result) is not None


@given(st.text("0123456789.,+-*/%() '\"lencout\n", max_size=60))
def test_near_misses_are_survived(text: str) -> None:
    result = calculate(text)
    assert result is None or len(result) < 700


def test_hostile_expressions_end() -> None:
    """Each of these would run for minutes, or out of memory, without the limits on size."""
    rng = random.Random(0)
    assert calculate("/".join(f"{rng.randrange(10**5)}.{rng.randrange(10**5)}" for _ in range(80))) is None
    assert calculate("**".join(["2"] * 300)) is None
    assert calculate("*".join(["9**300"] * 100)) is None
    assert calculate("+".join(f"1/{n}" for n in range(100, 240))) is not None
    assert calculate("+".join(["2**(1/3)"] * 90)) is not None
    assert calculate("9" * 10_000_000) is None
    assert calculate("'" * 10_000_000) is None
    assert calculate(" " * 10_000_000) is None


HOSTILE = [
    "9" * 10_000_000,
    " " * 5_000_000 + "1" + " " * 5_000_000,
    "(" * 1000,
    "-" * 1000,
    "1,234" * 200,
    "1" + ",234" * 249,
    "." * 1000,
    "'" * 1000,
    ". count" * 140,
    "'" + "a" * 480 + "'.count('" + "a" * 480 + "')",
    "len('" + "é" * 990 + "')",
    "**".join(["2"] * 330),
    "**".join(["1"] * 330),
    "*".join(["9**300"] * 140),
    "%".join(["9**320", "7**360"] * 70),
    "//".join(["9**320", "7**180"] * 60),
    "/".join(["9**320", "7**360"] * 70),
    "+".join(["1/3**600"] * 110),
    "+".join(["2**(1/3)"] * 110),
    "-".join(["3**-640"] * 120),
    "(" * 38 + "9**320" + ")%7)" * 19 + ")" * 19,
    "1/2**1023",
    "2**-1023",
    "0." + "0" * 150 + "1",
    "9**320*(1/9**320)",
    "(-1)**" + "9" * 300,
    "\x00" * 1000,
    "\ud800" * 1000,
]


@pytest.mark.parametrize("expression", HOSTILE, ids=range(len(HOSTILE)))
def test_memory_is_bounded(expression: str) -> None:
    """A megabyte, whatever the text; the time is measured by benchmarks/sandbox.py."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        answer = calculate(expression)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert answer is None or len(answer) < 700


@given(st.text("0123456789.,+-*/%() '\"lencout", max_size=1200))
def test_work_grows_no_faster_than_the_text(text: str) -> None:
    """Steps of the parser: at most a fixed number for every character."""
    steps = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal steps
        steps += event == "call"

    sys.setprofile(count)
    try:
        calculate(text)
    finally:
        sys.setprofile(None)
    assert steps < 100 * (len(text) + 10)
