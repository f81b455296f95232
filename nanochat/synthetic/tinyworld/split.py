"""The one place that decides what training never sees. Generators and tests ask the same functions.

Every decision is a hash of the item itself, so order, amount and world seed do not change it.
"""

from __future__ import annotations

import hashlib

HELD_OUT_WORDS = 0.15
HELD_OUT_EXPRESSIONS = 0.10
HELD_OUT_NAMES = 0.10
HELD_OUT_UNKNOWN = 0.20


def share(*key: object) -> float:
    """A number in [0, 1) that depends only on the key (unlike `hash`, the same in every process)."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def expression_is_held_out(left: int, operator: str, right: int) -> bool:
    """Whether training never shows this calculation, in any order of its numbers."""
    small, large = sorted((left, right))
    return share("expression", operator, small, large) < HELD_OUT_EXPRESSIONS


def invented_name_is_held_out(name: str) -> bool:
    """Whether this invented name is kept for the test."""
    return share("name", name.lower()) < HELD_OUT_NAMES


def unknown_question_is_held_out(question: str) -> bool:
    """Whether this question without an answer is kept for the test."""
    return share("unknown", question.lower()) < HELD_OUT_UNKNOWN
