"""The five kinds of things in the tiny world. kinds.toml holds their attributes and every sentence and question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.synthetic.tinyworld.wording import listed, read_toml


@dataclass(frozen=True)
class Attribute:
    """One thing that is known about every entity of a kind."""

    name: str
    values: tuple[str, ...]  # empty: the names of the towns
    statements: tuple[str, ...]  # 4 wordings, the first one is the answer
    questions: tuple[str, ...]  # 8 forms
    followups: tuple[str, ...]  # 3 forms that need the name from the turn before


@dataclass(frozen=True)
class Kind:
    """A kind of entity: how it is introduced, and what is known and not known about it."""

    name: str
    plural: str
    called: str  # how a sentence names one
    words: int  # words in a name
    intro: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    unanswerable: tuple[str, ...]  # questions about it which the world has no answer to


def _attribute(name: str, entry: dict[str, Any], values: dict[str, str]) -> Attribute:
    words = listed(values[entry["values"]]) if "values" in entry else ()
    return Attribute(name=name, **(entry | {"values": words}))


def _kinds() -> tuple[Kind, ...]:
    here = Path(__file__).parent
    values = read_toml(here / "values.toml")
    kinds = []
    for name, entry in read_toml(here / "kinds.toml").items():
        attributes = tuple(_attribute(key, about, values) for key, about in entry["attributes"].items())
        kinds.append(Kind(name=name, **(entry | {"attributes": attributes})))
    return tuple(kinds)


KINDS = _kinds()
