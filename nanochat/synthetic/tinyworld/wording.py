"""Small readings of English text: a list of words, and the set of words in sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable


def listed(text: str) -> tuple[str, ...]:
    """The words of a list that is written as running text."""
    return tuple(text.split())


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """The words that the sentences use, in small letters."""
    return frozenset(re.findall(r"[a-z]+", " ".join(texts).lower()))
