"""What strangers type first (first_minute.toml), and what keeps it out of training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

from nanochat.synthetic.tinyworld.wording import read_toml

_LETTER = r"(?<!')\b[a-z](?='s\b| in\b)"  # a counted one
_MARKS = re.compile(r"[?.!,]")


@dataclass(frozen=True)
class Asked:
    """One of the questions, and what makes a reply right: one of the fields below `kind`."""

    text: str
    kind: str
    number: Fraction | None = None
    spelled: str = ""
    says: tuple[str, ...] = ()
    names: str = ""  # a kind of the world
    refuses: bool = False


@cache
def asked() -> tuple[Asked, ...]:
    """All of them, in the file's order."""
    found = []
    for group in read_toml(Path(__file__).with_name("first_minute.toml"))["group"]:
        kind = group["kind"]
        for text, number in group.get("number", {}).items():
            found.append(Asked(text, kind, Fraction(number)))
        for text in group.get("ask", ()):
            if words := group.get("spelled"):
                found += [Asked(text.format(w=word), kind, spelled=word) for word in words]
            else:
                right = {key: group[key] for key in ("says", "names", "refuses") if key in group}
                found.append(Asked(text, kind, **right))
    return tuple(found)


@cache
def words() -> frozenset[str]:
    """The words that are spelled or whose letters are counted."""
    counted = (re.search(r"(?:in|of) (\w+)\W*$", one.text) for one in asked() if one.kind == "counting")
    return frozenset(one.spelled for one in asked() if one.spelled) | {found[1] for found in counted if found}


def _bare(text: str) -> str:
    return _MARKS.sub("", text.lower()).strip()


def _pattern(one: Asked) -> str:
    """What matches the question and all that have other numbers, another word, another letter, or another name."""
    pattern = re.escape(_bare(one.text)).replace(r"\ ", " ")
    pattern = re.sub(r"\\{near \w+\\}", lambda found: r"[\w ]+", pattern)
    if one.kind == "counting":
        pattern = re.sub(_LETTER, "[a-z]", pattern)
    for word in words() if one.kind in ("spelling", "counting") else ():
        pattern = re.sub(rf"\b{word}\b", lambda found: r"\w+", pattern)
    if one.names:
        pattern = re.sub(rf"\b{one.names}(s?)\b", lambda found: rf"\w+{found[1]}", pattern)
    return re.sub(r"\d+", lambda found: r"\d+", pattern)


@cache
def _all() -> re.Pattern[str]:
    return re.compile("|".join(sorted({_pattern(one) for one in asked()})))


def asks(text: str) -> bool:
    """Whether the text is one of the questions, or one of their templates: case, commas and full stops do not count."""
    return _all().fullmatch(_bare(text)) is not None
