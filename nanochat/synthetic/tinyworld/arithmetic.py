"""Sums, differences, products and quotients that are worked out by the calculator."""

from __future__ import annotations

import random
from fractions import Fraction

from nanochat.synthetic.tinyworld import first_minute
from nanochat.synthetic.tinyworld.split import expression_is_held_out
from nanochat.synthetic.tinyworld.wording import words_of
from nanochat.tools.calculator import calculate

SIGNS = {"+": ("+",), "-": ("-",), "*": ("*", "*", "x", "×"), "/": ("/", "/", "÷")}
WORDS = {"+": ("plus",), "-": ("minus",), "*": ("times", "multiplied by"), "/": ("divided by",)}
FORMS = (
    "What is {e}?",
    "Calculate {e}.",
    "How much is {e}?",
    "What do you get for {e}?",
    "Please work out {e}.",
    "Can you calculate {e}?",
    "What is the result of {e}?",
    "I need to know {e}.",
    "What's {e}?",
    "Solve {e}.",
    "Compute {e}.",
    "{e}, please.",
    "Tell me what {e} is.",
    "Do you know what {e} is?",
    "And {e}?",
    "{e} is what?",
    "{e} makes?",
    "How much would {e} be?",
    "What does {e} give?",
    "Give me {e}.",
    "Do this for me: {e}",
    "Math question: {e}",
    "Can you do {e}?",
    "The answer to {e}?",
)
SHORT_FORMS = ("{e}", "{e}", "{e} = ?", "{e}=", "{e}=?", "{e} =", "{e}?", "{e} ?", "{e} = ...")
NAMED_FORMS = {
    "+": (
        "What is the sum of {a} and {b}?",
        "Add {a} and {b}.",
        "Add {b} to {a}.",
        "What do {a} and {b} make together?",
    ),
    "-": (
        "What is the difference of {a} and {b}?",
        "Take {b} away from {a}.",
        "Subtract {b} from {a}.",
        "What is {a} take away {b}?",
        "{a} less {b}",
    ),
    "*": ("What is the product of {a} and {b}?", "Multiply {a} by {b}.", "Multiply {a} and {b}."),
    "/": ("What is the quotient of {a} and {b}?", "Divide {a} by {b}.", "Please divide {a} by {b}."),
}
BY_ZERO = "I cannot divide by zero. Nobody can."
ARITHMETIC_WORDS = words_of(
    text for texts in ((BY_ZERO, "Let me calculate."), FORMS, *NAMED_FORMS.values(), *WORDS.values()) for text in texts
)


def result(left: int, operator: str, right: int) -> Fraction | None:
    """The exact value; None for a division by zero."""
    found = value(left, operator, right)
    return None if found is None else Fraction(found)


def value(left: int, operator: str, right: int) -> str | None:
    """The exact value as the calculator writes it: "85", "3.5"; None for a division by zero."""
    return calculate(f"{left}{operator}{right}")


def random_expression(rng: random.Random, held_out: bool) -> tuple[int, str, int]:
    """Numbers of one to three digits (products: up to two). Differences are seldom below zero; quotients have at most
    two decimals, and most have none."""
    while True:
        left, operator, right = _expression(rng)
        if expression_is_held_out(left, operator, right) == held_out:
            return left, operator, right


def _expression(rng: random.Random) -> tuple[int, str, int]:
    operator = rng.choice("+++--***//")
    if operator == "/":
        if rng.random() < 0.05:
            return rng.randrange(100), "/", 0
        if rng.random() < 0.1:
            return rng.randrange(1, 100), "/", rng.choice((2, 4, 5, 10))
        right = rng.randrange(1, 13)
        return right * rng.randrange(1, 21 if rng.random() < 0.7 else 80), "/", right
    if rng.random() < 0.25:
        low, top = 0, 13
    else:
        low, top = 10 if rng.random() < 0.7 else 0, 100 if operator == "*" or rng.random() < 0.6 else 1000
    left, right = rng.randrange(low, top), rng.randrange(low, top)
    if operator == "-" and left < right and rng.random() < 0.9:
        left, right = right, left
    return left, operator, right


def question(rng: random.Random, left: int, operator: str, right: int) -> str:
    """The calculation asked in symbols, in words or by name."""
    while True:
        text = _question(rng, left, operator, right)
        if not first_minute.asks(text):
            return text


def _question(rng: random.Random, left: int, operator: str, right: int) -> str:
    if rng.random() < 0.15:
        return rng.choice(NAMED_FORMS[operator]).format(a=left, b=right)
    draw = rng.random()
    sign, word = rng.choice(SIGNS[operator]), rng.choice(WORDS[operator])
    if draw < 0.35:
        expression = f"{left} {sign} {right}"
    elif draw < 0.75:
        expression = f"{left}{sign}{right}"
    else:
        expression = f"{left} {word} {right}"
    return rng.choice(SHORT_FORMS if rng.random() < 0.4 else FORMS).format(e=expression)


def said(left: int, operator: str, right: int) -> str:
    """The final sentence: "37 + 48 is 85."."""
    found = value(left, operator, right)
    return BY_ZERO if found is None else f"{left} {operator} {right} is {found}."


def answer(left: int, operator: str, right: int) -> list[dict[str, str]]:
    """The parts of the answer: a word, the tool call, its output, the final sentence. Nothing is called to divide by
    zero."""
    found = value(left, operator, right)
    if found is None:
        return [{"type": "text", "text": BY_ZERO}]
    return [
        {"type": "text", "text": "Let me calculate. "},
        {"type": "python", "text": f"{left}{operator}{right}"},
        {"type": "python_output", "text": found},
        {"type": "text", "text": said(left, operator, right)},
    ]
