"""A report as Markdown that GitHub shows; a stranger's text in it is only text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nanochat.report.blocks import Block, Cell, Columns, Facts, Fold, Picture, Report, Sample, Section, Table, Text
from nanochat.report.values import line, visible

MARKUP = re.compile(
    r"([\\`*\[\]~|]|(?<![A-Za-z0-9])@|@(?!\d)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[#>+-](?=\s)|(?<=^\d)[.)](?=\s))"
)
LINK = re.compile(r"(?i)(:)(?=//)|(?<=www)(\.)")  # would become one


def write(report: Report) -> str:
    parts = [f"# nanochat report{f': {plain(report.title)}' if report.title else ''}", plain(report.about), report.made]
    parts += [_section(section) for section in report.sections]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str, most: int = 1000) -> str:
    """One line that is shown as it is."""
    escaped = LINK.sub(lambda found: "\\" + found[0], MARKUP.sub(r"\\\1", line(text, most)))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _section(section: Section) -> str:
    """Empty when nothing of it is for Markdown."""
    head = [f"{'#' * section.level} {plain(section.title)}"] if section.title else []
    drawn = _drawn(section.blocks)
    return "\n\n".join([*head, *drawn]) if drawn else ""


def _drawn(blocks: Iterable[Block]) -> list[str]:
    return [text for block in blocks if (text := draw(block))]


def draw(block: Block) -> str:
    match block:
        case Table():
            return table(block)
        case Text():
            return plain(block.text)
        case Facts():
            return " · ".join(f"**{plain(name)}:** {plain(value)}" for name, value in block.items)
        case Picture():
            return f"![{plain(block.alt)}]({block.file})" if block.file else ""
        case Sample():
            return _sample(block)
        case Fold():
            inside = "\n\n".join(_drawn(block.blocks))
            return f"<details><summary>{plain(block.title)}</summary>\n\n{inside}\n\n</details>"
        case Columns():
            return "\n\n".join(text for column in block.columns for text in _drawn(column))
        case Section():
            return _section(block)


def table(block: Table) -> str:
    """Columns of numbers are aligned to the right."""
    sides = ["---" if n == 0 or name in block.words else "---:" for n, name in enumerate(block.head)]
    rows = [[_cell(cell) for cell in row] for row in block.rows]
    if block.strong:
        rows[-1] = [f"**{text}**" if text else "" for text in rows[-1]]
    lines = ["| " + " | ".join(cells) + " |" for cells in ([plain(name) for name in block.head], *rows)]
    return "\n".join([lines[0], "|" + "|".join(sides) + "|", *lines[1:]])


def _cell(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return plain(cell)
    return plain(cell.text) + (f" ({plain(cell.note)})" if cell.note else "")


def _sample(sample: Sample) -> str:
    if sample.chat:
        marked = {True: " (right)", False: " (wrong)", None: ""}[sample.right]
        task = f", {plain(sample.task, 60)}" if sample.task else ""
        parts = [sample.prompt, sample.text]
        return f"{plain(sample.title)}{task}{marked}\n\n" + "\n\n".join(quoted(part) for part in parts)
    return f"{plain(sample.title)}\n\n" + quoted(f"{sample.prompt}{sample.text}".strip("\n"))


def quoted(text: str) -> str:
    """A code block whose fence the text cannot close."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{visible(text)}\n{fence}"
