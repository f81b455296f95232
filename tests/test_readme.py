"""What the README says of the code is so."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_files_of_the_main_way_have_about_the_lines_it_says() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)` (\d+)", text)
    assert len(named) > 20
    for file, lines in named:
        there = len((ROOT / "nanochat" / file).read_text(encoding="utf-8").splitlines())
        assert abs(there - int(lines)) <= 0.2 * there + 10, f"{file} has {there} lines, the README says {lines}"
