"""A report as one HTML file that asks for nothing from elsewhere and runs nothing; all text is escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from nanochat.report.blocks import Block, Cell, Columns, Facts, Fold, Picture, Report, Sample, Section, Table, Text
from nanochat.report.values import line, visible

STYLE = Path(__file__).with_name("page.css")
UNIT = re.compile(r"(?<=\d) (?=[KMBT] )")  # a number and its unit stay on one line
LONG = 700  # characters of a sample that are shown at once
LONGEST = 20_000  # characters that are shown at all


def write(report: Report) -> str:
    style = STYLE.read_text(encoding="utf-8")
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{allowed}'; img-src data:; base-uri 'none'; form-action 'none'"
    title = f"{report.title} · nanochat report" if report.title else "nanochat report"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            f"<title>{text(title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            f'<header><p class="brand">nanochat report</p><p class="made">{text(report.made)}</p>',
            f'<h1 dir="auto">{text(report.title or "Report")}</h1>',
            f'<p class="about">{UNIT.sub("&nbsp;", text(report.about))}</p></header>',
            "<main>",
            *map(_section, report.sections),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def text(plain: str, most: int = 1000) -> str:
    """One line of escaped text."""
    return escape(line(plain, most))


def draw(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Text():
            return f'<p class="small">{text(block.text)}</p>' if block.small else f"<p>{text(block.text)}</p>"
        case Facts():
            pairs = (f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in block.items)
            return f'<dl class="facts">{"".join(pairs)}</dl>'
        case Picture():
            drawn = "".join(f"<div>{svg}</div>" for svg in block.panels)
            return f'<figure class="n{block.across}" role="img" aria-label="{text(block.alt)}">{drawn}</figure>'
        case Sample():
            return _sample(block)
        case Fold():
            return f"<details><summary>{text(block.title)}</summary>{_drawn(block.blocks)}</details>"
        case Columns():
            drawn = "".join(f"<div>{_drawn(column)}</div>" for column in block.columns if column)
            return f'<div class="columns n{min(3, len(block.columns))}">{drawn}</div>'
        case Section():
            return _section(block)


def _drawn(blocks: Iterable[Block]) -> str:
    return "\n".join(map(draw, blocks))


def _section(section: Section) -> str:
    title = f"<h{section.level}>{text(section.title)}</h{section.level}>" if section.title else ""
    return f"<section>{title}{_drawn(section.blocks)}</section>"


def _table(block: Table) -> str:
    kinds = ["word" if n == 0 or name in block.words else "number" for n, name in enumerate(block.head)]
    head = "".join(
        f'<th scope="col" class="{kind}">{text(name)}</th>' for name, kind in zip(block.head, kinds, strict=True)
    )
    noted = [any(isinstance(cell, Cell) and cell.note for cell in column) for column in zip(*block.rows, strict=True)]
    rows = []
    for n, row in enumerate(block.rows, 1):
        strong = ' class="strong"' if block.strong and n == len(block.rows) else ""
        drawn = (_cell(cell, note) for cell, note in zip(row, noted, strict=True))
        cells = "".join(f'<td class="{kind}">{cell}</td>' for cell, kind in zip(drawn, kinds, strict=True))
        rows.append(f"<tr{strong}>{cells}</tr>")
    head = f"<thead><tr>{head}</tr></thead>" if any(block.head) else ""
    pairs = ' class="pairs"' if len(block.head) == 2 else ""
    return f'<div class="table"><table{pairs}>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _cell(cell: str | Cell, noted: bool) -> str:
    """noted: whether a cell of its column has a note; then all have room for one, and their texts stand in a line."""
    shown = Cell(cell) if isinstance(cell, str) else cell
    return (shown.svg or text(shown.text)) + (f" <small>{text(shown.note)}</small>" if noted else "")


def _sample(sample: Sample) -> str:
    mark = {True: ' <span class="right">✓ right</span>', False: ' <span class="wrong">✗ wrong</span>', None: ""}[
        sample.right
    ]
    task = f", {text(sample.task, 60)}" if sample.task else ""
    head = f"<figcaption>{text(sample.title)}{task}{mark}</figcaption>"
    if sample.chat:
        body = f'<div class="you">{_long(sample.prompt)}</div><div class="model">{_long(sample.text)}</div>'
    else:
        given = f'<b dir="auto">{_written(sample.prompt)}</b>' if sample.prompt else ""
        body = f'<div class="model">{_long(sample.text, given)}</div>'
    return f'<figure class="sample">{head}{body}</figure>'


def _long(words: str, before: str = "") -> str:
    """The beginning of a long text, and the rest when asked for."""
    if len(words) <= LONG:
        return f'<p dir="auto">{before}{_written(words)}</p>'
    rest, cut = words[LONG:LONGEST], max(0, len(words) - LONGEST)
    more = f"<p>and {cut:,} more characters</p>" if cut else ""
    folded = f'<details><summary>more</summary><p dir="auto">{_written(rest)}</p>{more}</details>'
    return f'<p dir="auto">{before}{_written(words[:LONG])}</p>{folded}'


def _written(words: str) -> str:
    """Escaped text with its line breaks."""
    return escape(visible(words))
