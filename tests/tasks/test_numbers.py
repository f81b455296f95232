"""Numbers in every way of writing them: each is read back as the value that was written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.tasks.numbers import numbers, plain, spelled, value

WAYS = [
    *(("1234", way) for way in ("1,234", "1\u2009234", "1\xa0234", "1\u202f234", "1_234", "1'234", "1’234", "1{,}234")),
    *(("1234", way) for way in ("1\\,234", "01234", "1,234.00", "1，２３４", "١٬٢٣٤", "१२३४", "1.234e3", "1,\\!234")),
    *(("1234.5", way) for way in ("$1,234.50", "1.234,50 €", "1,234.5", "US$1,234.5", "USD1234.5", "١٢٣٤٫٥")),
    *(("18", way) for way in ("€18", "£18", "¥18", "18$", "18%", "18 dollars", "+18", "18.0", "18.", "18kg")),
    *(
        ("18", way)
        for way in ("$18$", "\\(18\\)", "\\text{18 apples}", "\\$18", "18\\%", "**18**", "_18_", "`18`", "１８")
    ),
    *(
        ("18", way)
        for way in ("(18)", "[18]", "~18", "≈18", "#18", "18x", "18/1", "$18", "18,", "'18'", "十18個", "18²")
    ),
    *(
        ("-5", way)
        for way in ("-5", "−5", "–5", "-$5", "$-5", "−$5.00", "negative 5", "minus 5", "x=-5", "-5.0", "－5")
    ),
    *(
        ("1/2", way)
        for way in ("½", ".5", "0.5", "1/2", "1 / 2", "1⁄2", "\\frac{1}{2}", "\\dfrac{1}{2}", "\\frac12", "5e-1")
    ),
    *(("5/2", way) for way in ("2½", "2 ½", "2 1/2", "2 and 1/2", "2\\frac{1}{2}", "2 \\frac12", "5/2", "2.5", "2.50")),
    *(("-3/4", way) for way in ("-¾", "-3/4", "-\\frac{3}{4}", "\\frac{-3}{4}", "−0.75", "-$.75")),
    *(("1500", way) for way in ("1.5e3", "1.5E+03", "1.5×10^3", "1.5 × 10³", "1.5 \\times 10^{3}", "1.5*10^3", "1.5k")),
    *(("1500000", way) for way in ("1.5 million", "1.5-million", "$1.5M", "1,500 thousand", "1500K", "15,00,000")),
    *(("1234567", way) for way in ("1.234.567", "1.234.567,0", "1 234 567,00")),
    *(("200000", way) for way in ("2 hundred thousand", "2 * 10**5")),
    *(("7/2", way) for way in ("3-1/2", "3 1/2")),
    *(("1/1000", way) for way in ("10⁻³", "10^{-3}", "1 × 10⁻³", "1e-3", ".001")),
]


def read(text: str) -> list[Fraction | None]:
    return [value(number) for number in numbers(plain(text))]


@pytest.mark.parametrize(("number", "text"), WAYS)
def test_every_way(number: str, text: str) -> None:
    for around in ("{}", "It is {}.", "so ({})", "= {}\n"):
        assert read(around.format(text)) == [Fraction(number)], around


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("B12, COVID-19, x2 and R2D2 on the 3rd at 10:30, 2024-01-31, 1/2/2024, version 1.2.3, cm^2, cm²", []),
        ("18-3 = 15", [18, 3, 15]),
        ("18 - 3", [18, 3]),
        ("10–15 or 10-15", [10, 15, 10, 15]),
        ("1, 2,3 and 4,5", [1, 2, 3, 4, 5]),
        ("12,34", [12, 34]),
        ("1 234", [1234]),
        ("12 48/2", [24]),
        ("100 % of 3-packs, 20-year-old", [100, 3, 20]),
        ("16 minus 5", [16, 5]),
        ("3 dozen", [3]),
        ("1.5 dozen", [18]),
        ("0x12", []),
        ("~~20~~ 18", [18]),
        ("10-6/2, 3-1/2/2024", []),
        ("20‑year‑old, COVID‑19", [20]),
        ("No.5 ...5 ±5 5! 5? 5/day", [5] * 6),
        ("<<6*3=18>>18", [18]),
        ("1" * 101, [None]),
        ("1" * 100, [int("1" * 100)]),
        ("1e101", [None]),
        ("1e999999999", [None]),
        ("1/0", [None]),
    ],
)
def test_what_is_a_number_and_what_is_not(text: str, values: list[int | None]) -> None:
    assert read(text) == values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("eighteen", [18]),
        ("Twenty-one eggs, and twenty two", [21, 22]),
        ("one hundred and five", [105]),
        ("two thousand", [2000]),
        ("a dozen", [12]),
        ("two dozen", [24]),
        ("minus five", [-5]),
        ("two and a half", [Fraction(5, 2)]),
        ("one half, three quarters", [Fraction(1, 2), Fraction(3, 4)]),
        ("minus three point one four", [Fraction(-314, 100)]),
        ("half of them, a third of them", []),
        ("twenty-one fifth graders", [21]),
        ("a hundred", [100]),
        ("one million, two hundred thousand and six", [1_200_006]),
        ("ninety-nine thousand nine hundred ninety-nine", [99_999]),
        ("I have one", [1]),
        ("no one, one of them, the one, someone, often", []),
    ],
)
def test_number_words(text: str, values: list[int | Fraction]) -> None:
    assert [number for _, number in spelled(text)] == values


def in_words(n: int) -> str:
    """English, the way that a school teaches it."""
    small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    names = [*small.split(), "seventeen", "eighteen", "nineteen"]
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    if n < 20:
        return names[n]
    if n < 100:
        return tens[n // 10 - 2] + (f"-{names[n % 10]}" if n % 10 else "")
    for size, name, link in ((10**6, "million", " "), (1000, "thousand", " "), (100, "hundred", " and ")):
        if n >= size:
            return f"{in_words(n // size)} {name}" + (f"{link}{in_words(n % size)}" if n % size else "")
    raise AssertionError(n)


@given(st.integers(0, 10**9 - 1))
def test_number_words_are_read_back(n: int) -> None:
    assert [number for _, number in spelled(f"There are {in_words(n)} eggs.")] == [n]


def mixed(number: Fraction) -> str:
    whole, rest = divmod(abs(number), 1)
    return f"{'-' if number < 0 else ''}{whole} {rest.numerator}/{rest.denominator}"


@given(st.integers(-(10**12), 10**12), st.integers(1, 999))
def test_fractions_are_read_back(top: int, bottom: int) -> None:
    number = Fraction(top, bottom)
    n, d, sign = abs(number.numerator), number.denominator, "-" if number < 0 else ""
    ways = [f"{sign}{n}/{d}", f"{sign}\\frac{{{n}}}{{{d}}}", f"{sign}\\dfrac{{{n}}}{{{d}}}", f"{sign}{n:,}/{d}"]
    if abs(number) < 10**9:
        ways.append(mixed(number))
    for way in ways:
        assert read(f"x = {way}, so") == [number], way


@given(st.integers(-(10**15), 10**15), st.integers(0, 6))
def test_decimals_are_read_back(digits: int, places: int) -> None:
    number = Fraction(digits, 10**places)
    sign = "-" if number < 0 else ""
    whole, rest = divmod(abs(digits), 10**places)
    tail = f".{rest:0{places}}" if places else ""
    comma = f"{whole:,}{tail}"
    ways = [
        f"{sign}{whole}{tail}",
        f"{sign}{comma}",
        f"{sign}{whole:_}{tail}",
        f"{sign}${comma}",
        f"**{sign}{comma}**",
    ]
    ways += [f"{sign}{comma.replace(',', gap)}" for gap in ("{,}", "\u202f", "\xa0", "’", "'", "\\,")]
    ways += [
        f"−{comma}" if sign else comma,
        f"{sign}{comma}0" if tail else f"{sign}{comma}.00",
        f"{sign}{whole}{tail}e0",
    ]
    ways += [
        f"{sign}{comma}%",
        f"{sign}{comma} eggs",
        f"\\({sign}{comma}\\)",
        f"{sign}{abs(digits)} × 10^{{-{places}}}",
    ]
    ways.append(f"{sign}{comma}".translate({ord("0") + i: chr(0xFF10 + i) for i in range(10)}))
    for way in ways:
        assert read(f"It is {way}") == [number], way
