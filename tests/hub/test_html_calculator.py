"""The calculator of an exported file says what ours says."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tools import calculate
from tests.hub.html_browser import Probe

NUMBERS = st.one_of(
    st.integers(0, 10**30).map(str),
    st.floats(0, 1e12, allow_nan=False).map(lambda x: f"{x:f}"),
    st.integers(0, 10**9).map("{:,}".format),
    st.sampled_from([".5", "5.", "0", "1", "007", "1,00", "1,000,", "0.000000000001", "9" * 308, "1" * 512, "1" * 513]),
)
STRINGS = st.text(st.sampled_from("abrs ,'\"\\\n\N{PILE OF POO}é\u0301"), max_size=8).map(lambda text: f"'{text}'")
EXPRESSIONS = st.recursive(
    st.one_of(NUMBERS, STRINGS.map("len({})".format), st.tuples(STRINGS, STRINGS).map("{0[0]} . count({0[1]})".format)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**", " ** -", "**0.5*"]), inner).map("".join),
        inner.map("({})".format),
        inner.map("-{}".format),
    ),
    max_leaves=8,
)
WHITE = [chr(point) for point in range(0x3001) if chr(point).isspace()] + ["\ufeff", "\u200b", "\u180e"]


def same(probe: Probe, expressions: list[str]) -> None:
    found = probe.call("calculate", expressions)
    assert list(zip(expressions, found, strict=True)) == [(text, calculate(text)) for text in expressions]


@settings(max_examples=60, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=30, max_size=60))
def test_expressions(probe: Probe, expressions: list[str]) -> None:
    same(probe, expressions)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(st.sampled_from("0123456789.,+-*/%() '\"alencout\n\t\\"), max_size=30), min_size=40))
def test_what_looks_like_one(probe: Probe, expressions: list[str]) -> None:
    same(probe, expressions)


def test_roots_and_other_powers(probe: Probe) -> None:
    """Rounded to the nearest double, also where a result lies just between two."""
    g = random.Random(0)
    odd = [2**18 - 1 - 2 * i for i in range(20)]
    between = [f"{s * s}**1.5" for s in odd]  # 54 bits: halfway between two doubles
    assert all((s**3).bit_length() == 54 and s**3 % 2 for s in odd[:3])
    exact = [f"{n**2}**0.5" for n in range(200)]
    small = [f"{g.randint(1, 10**6)}/{g.randint(1, 10**6)}**{g.uniform(-5, 5):f}" for _ in range(800)]
    large = [f"{g.uniform(1, 9) * 10 ** g.randint(0, 60):f}**{g.uniform(-6, 6):f}" for _ in range(800)]
    edges = ["2**1023.5", "2**1024.5", "2**-1022.5", "2**-1080.5", "0**0.5", "0**-.5", "1**.5"]
    edges += [f"{2**1024 - 1}**0.5", f"(1/{2**1023})**0.5", "2**(1/3)", "1.0000000001**1000000.5", ".5**(1/10**300)"]
    edges += ["10**308.25", "10**308.26"]
    same(probe, [*between, *exact, *small, *large, *edges])
    assert probe.call("calculate", ["10**30*2**.5"]) == [calculate("10**30*2**.5")] != [None]
    assert math.isclose(float(calculate("2**0.5") or 0), 2**0.5, rel_tol=1e-9)


def test_limits(probe: Probe) -> None:
    nested = [f"{'(' * n}1{')' * n}" for n in (39, 40, 41)] + [f"{'-' * n}1" for n in (38, 39, 40, 41)]
    long = [
        " " * 999 + "1",
        " " * 1000 + "1",
        "'" + "\N{PILE OF POO}" * 990 + "'.count('')",
        "len('" + "x" * 993 + "')",
    ]
    powers = ["2**1023", "2**1024", "(1/3)**646", "(1/3)**647", "(-1)**999999999999", "0**0", "0**-1", "(-8)**(1/3)"]
    small = (
        [f"1/{10**n}" for n in range(3, 40)] + [f"-1/{3**n}" for n in range(1, 60)] + ["2.5/1", "1/8", "-7//2", "-7%3"]
    )
    halves = ["0.00000000005", "0.00000000015", "1.00000000005", "1.00000000015", "-1.00000000005"]
    same(probe, [*nested, *long, *powers, *small, *halves])


def test_white_space(probe: Probe) -> None:
    """Python's, at the edges; only ASCII's inside."""
    same(
        probe,
        [text for space in WHITE for text in (f"{space}1+1{space}", f"1{space}+1", f"'{space}'.{space}count(' ')")],
    )


@pytest.mark.parametrize(
    "hostile", ["constructor", "__proto__", "alert(1)", "1;2", "0x10", "1e5", "1n", "this", "`1`", "\0"]
)
def test_no_javascript(probe: Probe, hostile: str) -> None:
    assert probe.call("calculate", [hostile, f"len('{hostile}')"]) == [None, calculate(f"len('{hostile}')")]
