"""The calculator a model may call: a small grammar of our own, bounded in time and memory for any text.

`python -m benchmarks.sandbox` looks for the slowest and the largest expression among a million.

    sum     := product (("+" | "-") product)*
    product := unary (("*" | "/" | "//" | "%") unary)*
    unary   := ("-" | "+") unary | power
    power   := atom ("**" unary)?
    atom    := number | "(" sum ")" | string ".count(" string ")" | "len(" string ")"

Numbers are exact (integers and fractions), so 0.1 + 0.2 is 0.3 and 1/3*3 is 1.
"""

from __future__ import annotations

import re
from decimal import Context
from fractions import Fraction

MAX_CHARACTERS = 1000
MAX_DEPTH = 40  # nesting of parentheses, signs and powers
MAX_BITS = 1024  # of any numerator or denominator, intermediate results included
DECIMALS = 10
_DIGITS = Context(prec=60, traps=[])  # of a power, far more than a float keeps

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])(?:\.[0-9]*)?|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)
    | (?P<string>"[^"\\\n]*"|'[^'\\\n]*')
    | (?P<operator>\*\*|//|[-+*/%()]|\.\s*count\b|len\b)
    )""",
    re.VERBOSE | re.ASCII,
)


class IllegalExpression(ValueError):
    """Not in the grammar, without a value (1/0), or over a limit."""


def calculate(expression: str) -> str | None:
    """The value as text ("24", "0.2", "-3.3333333333"), or None when `expression` is not legal.

    Fractions are rounded to ten decimals; very small ones keep ten significant digits.
    """
    try:
        return _format(_Parser(_tokens(expression)).value())
    except IllegalExpression:
        return None


def _tokens(expression: str) -> list[tuple[str, str]]:
    """(kind, text) pairs, ending with ("end", "")."""
    if len(expression) > MAX_CHARACTERS:  # before anything else looks at it
        raise IllegalExpression
    expression = expression.strip()
    tokens = []
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None or match.lastgroup is None:
            raise IllegalExpression
        text = match[match.lastgroup]
        tokens.append((match.lastgroup, ".count" if text.endswith("count") else text))
        position = match.end()
    tokens.append(("end", ""))
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0

    def value(self) -> Fraction:
        result = self.sum()
        if self.tokens[self.position][0] != "end":
            raise IllegalExpression
        return result

    def accept(self, *operators: str) -> str | None:
        """Step over the next token if it is one of these operators."""
        kind, text = self.tokens[self.position]
        if kind != "operator" or text not in operators:
            return None
        self.position += 1
        return text

    def require(self, operator: str) -> None:
        if self.accept(operator) is None:
            raise IllegalExpression

    def sum(self) -> Fraction:
        left = self.product()
        while operator := self.accept("+", "-"):
            right = self.product()
            left = _bounded(left + right if operator == "+" else left - right)
        return left

    def product(self) -> Fraction:
        left = self.unary()
        while operator := self.accept("*", "/", "//", "%"):
            right = self.unary()
            if operator == "*":
                left = _bounded(left * right)
            elif right == 0:
                raise IllegalExpression
            elif operator == "/":
                left = _bounded(left / right)
            else:
                left = _bounded(Fraction(left // right) if operator == "//" else left % right)
        return left

    def unary(self) -> Fraction:
        self.depth += 1  # every way to recurse passes here
        if self.depth > MAX_DEPTH:
            raise IllegalExpression
        sign = self.accept("-", "+")
        result = self.power() if sign is None else self.unary()
        self.depth -= 1
        return -result if sign == "-" else result

    def power(self) -> Fraction:
        base = self.atom()
        return _power(base, self.unary()) if self.accept("**") else base

    def atom(self) -> Fraction:
        if self.accept("("):
            result = self.sum()
            self.require(")")
            return result
        if self.accept("len"):
            self.require("(")
            result = Fraction(len(self.string()))
            self.require(")")
            return result
        kind, text = self.tokens[self.position]
        if kind == "string":
            whole = self.string()
            self.require(".count")
            self.require("(")
            result = Fraction(whole.count(self.string()))
            self.require(")")
            return result
        if kind != "number":
            raise IllegalExpression
        self.position += 1
        # Four bits hold any decimal digit: longer numbers cannot fit, and are never converted.
        if len(text) * 4 > MAX_BITS * 2:
            raise IllegalExpression
        text = text.replace(",", "")
        return _bounded(Fraction(("0" if text[0] == "." else "") + text.removesuffix(".")))

    def string(self) -> str:
        kind, text = self.tokens[self.position]
        if kind != "string":
            raise IllegalExpression
        self.position += 1
        return text[1:-1]


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise IllegalExpression
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent < 0:
        raise IllegalExpression
    if exponent.denominator == 1:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        # (bits - 1) * exponent is a lower bound of the size: nothing legal is refused, nothing huge is made.
        if (bits - 1) * abs(exponent) > MAX_BITS:
            raise IllegalExpression
        if bits <= 1:  # 0, 1, -1: any exponent is cheap
            return base ** (int(exponent) % 2 + 2) if exponent != 0 else Fraction(1)
        return _bounded(base ** int(exponent))
    if base < 0:
        raise IllegalExpression
    try:
        # What float ** float gives depends on the machine; this is the nearest float everywhere.
        x, y = (_DIGITS.create_decimal_from_float(float(number)) for number in (base, exponent))
        return _bounded(Fraction(float(_DIGITS.power(x, y))))
    except OverflowError:
        raise IllegalExpression from None


def _format(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    decimals = DECIMALS
    while abs(value) * 10**decimals < 10 ** (DECIMALS - 4):
        decimals += 6
    scaled = round(value * 10**decimals)
    digits = str(abs(scaled)).rjust(decimals + 1, "0")
    text = f"{digits[:-decimals]}.{digits[-decimals:]}".rstrip("0").rstrip(".")
    return f"-{text}" if scaled < 0 else text
