"""Texts that want to be more than text: scripts, links that run, pages inside the page, in many disguises."""

from __future__ import annotations

import re
from pathlib import Path

# One a line. What cannot be seen is written as ␀ (U+0000) and so on, or as ␣ and four digits.
_WRITTEN = (Path(__file__).parent / "data" / "xss.txt").read_text("utf-8").rstrip("\n").split("\n")


def _meant(line: str) -> str:
    line = re.sub("␣([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), line)
    return re.sub("[␀-␟]", lambda found: chr(ord(found[0]) - 0x2400), line)


PAYLOADS = [_meant(line) for line in _WRITTEN]
