"""The table of what fits a GPU is what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fits

DOCS = Path(__file__).parents[2] / "docs" / "planning.md"


def documented(depth: int) -> dict[int, str]:
    """The table's row: card -> its cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCS.read_text().splitlines()]
    header = next(cells for cells in lines if cells[:2] == ["depth", "16 GB"])
    row = next(cells for cells in lines[lines.index(header) :] if cells[0] == str(depth))
    return {int(card.split()[0]): cell for card, cell in zip(header[1:], row[1:], strict=True)}


@pytest.mark.slow
def test_the_docs_say_what_fits_large_cards() -> None:
    memory_of = fits.traces(12)
    table = documented(12)
    assert list(table) == list(fits.CARDS)
    assert [fits.cell(fits.found(12, card, memory_of)) for card in (80, 180)] == [table[80], table[180]]


@pytest.mark.slow
@pytest.mark.parametrize("depth", fits.DEPTHS)
def test_the_docs_say_what_fits(depth: int) -> None:
    """All of it; depth 24 fits a card of 24 GB with the defaults."""
    memory_of = fits.traces(depth)
    assert {card: fits.cell(fits.found(depth, card, memory_of)) for card in fits.CARDS} == documented(depth)
    assert depth > 24 or fits.found(depth, 24, memory_of).fits
