"""Sums, differences and products that are worked out by the calculator."""

from __future__ import annotations

import random

from nanochat.synthetic.tinyworld.split import expression_is_held_out

WORDS = {"+": "plus", "-": "minus", "*": "times"}
FORMS = (
    "What is {e}?",
    "Calculate {e}.",
    "How much is {e}?",
    "{e} = ?",
    "{e}",
    "What do you get for {e}?",
    "Please work out {e}.",
    "Can you calculate {e}?",
    "What is the result of {e}?",
    "I need to know {e}.",
)
NAMED_FORMS = {
    "+": ("What is the sum of {a} and {b}?", "Add {a} and {b}."),
    "-": ("What is the difference of {a} and {b}?", "Take {b} away from {a}."),
    "*": ("What is the product of {a} and {b}?", "Multiply {a} by {b}."),
}
RESULTS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def result(left: int, operator: str, right: int) -> int:
    """The exact value."""
    return RESULTS[operator](left, right)


def random_expression(rng: random.Random, held_out: bool) -> tuple[int, str, int]:
    """Numbers of one to three digits (products: up to two), differences never below zero."""
    while True:
        operator = rng.choice("++-**")
        top = 100 if operator == "*" or rng.random() < 0.6 else 1000
        low = 10 if rng.random() < 0.7 else 0
        left, right = rng.randrange(low, top), rng.randrange(low, top)
        if operator == "-" and left < right:
            left, right = right, left
        if expression_is_held_out(left, operator, right) == held_out:
            return left, operator, right


def question(rng: random.Random, left: int, operator: str, right: int) -> str:
    """The calculation asked in symbols, in words or by name."""
    if rng.random() < 0.2:
        return rng.choice(NAMED_FORMS[operator]).format(a=left, b=right)
    draw = rng.random()
    if draw < 0.45:
        expression = f"{left} {operator} {right}"
    elif draw < 0.6:
        expression = f"{left}{operator}{right}"
    else:
        expression = f"{left} {WORDS[operator]} {right}"
    return rng.choice(FORMS).format(e=expression)


def said(left: int, operator: str, right: int) -> str:
    """The final sentence: "37 + 48 is 85."."""
    return f"{left} {operator} {right} is {result(left, operator, right)}."


def answer(left: int, operator: str, right: int) -> list[dict[str, str]]:
    """The parts of the answer: a word, the tool call, its output, the final sentence."""
    return [
        {"type": "text", "text": "Let me calculate. "},
        {"type": "python", "text": f"{left}{operator}{right}"},
        {"type": "python_output", "text": str(result(left, operator, right))},
        {"type": "text", "text": said(left, operator, right)},
    ]
