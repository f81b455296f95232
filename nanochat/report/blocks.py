"""What a report is made of. Both writers, of Markdown and of HTML, draw these; all texts in them are plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Cell:
    """note: smaller, beside the text. svg: drawn instead of the text where pictures can stand in a line."""

    text: str
    note: str = ""
    svg: str = ""


@dataclass(frozen=True)
class Table:
    """Columns but the first are numbers, unless they are named in `words`. strong: the last row is a sum."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    words: Sequence[str] = ()
    strong: bool = False


@dataclass(frozen=True)
class Text:
    """small: beside the point."""

    text: str
    small: bool = False


@dataclass(frozen=True)
class Facts:
    """The most important figures, each with its name."""

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Picture:
    """panels: SVG elements, `across` of them side by side; 0: as many as there is room for. file: a picture of the same
    for Markdown; without one it has none."""

    panels: Sequence[str]
    alt: str
    file: str = ""
    across: int = 0


@dataclass(frozen=True)
class Sample:
    """What a model wrote. prompt: what it was asked, or went on from. chat: whether it was asked. right: whether its
    answer was. task: that asked."""

    title: str
    prompt: str
    text: str
    chat: bool
    right: bool | None = None
    task: str = ""


@dataclass(frozen=True)
class Fold:
    """Shown when asked for."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Columns:
    """Side by side where there is room, at most three in a row."""

    columns: Sequence[Sequence[Block]]


@dataclass(frozen=True)
class Section:
    """title: "" for the first one."""

    title: str
    blocks: Sequence[Block]
    level: int = 2


@dataclass(frozen=True)
class Report:
    """about: one sentence. made: when, in words."""

    title: str
    about: str
    made: str
    sections: Sequence[Section] = field(default_factory=list)


Block: TypeAlias = Table | Text | Facts | Picture | Sample | Fold | Columns | Section
