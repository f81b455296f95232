"""Read English text: the words of a list, the set of words in sentences, and the files that hold them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any


def listed(text: str) -> tuple[str, ...]:
    """The words of a list written as one string."""
    return tuple(text.split())


def words_of(texts: Iterable[str]) -> frozenset[str]:
    """The words that the sentences use, in small letters."""
    return frozenset(re.findall(r"[a-z]+", " ".join(texts).lower()))


@cache
def read_words(file: Path) -> tuple[str, ...]:
    """The words of a text file, in its order."""
    return listed(file.read_text(encoding="utf-8"))


@cache
def read_toml(file: Path) -> dict[str, Any]:
    """What a TOML file says, in its order. Lists become tuples."""
    found: dict[str, Any] = _without_lists(tomllib.loads(file.read_text(encoding="utf-8")))
    return found


def _without_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_lists(one) for key, one in value.items()}
    if isinstance(value, list):
        return tuple(_without_lists(one) for one in value)
    return value
