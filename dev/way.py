"""Write the lines of code into README's table of the main way: of each file to the nearest ten, in all to the nearest
hundred, so that a small change of the code leaves the page alone.

python dev/way.py          # writes the numbers
python dev/way.py --check  # exit code 1 where they are not what would be written
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"
ROW = re.compile(r"(`([\w/]+\.py)`) \d+(?=, |\s*\|)")
TOTAL = re.compile(r"\([\d,]+ in all\)")


def lines_of(file: str) -> int:
    return len((ROOT / "nanochat" / file).read_text(encoding="utf-8").splitlines())


def written(text: str) -> str:
    """The page with the numbers of today's code."""
    every = [lines_of(file) for _, file in ROW.findall(text)]
    text = ROW.sub(lambda found: f"{found[1]} {rounded(lines_of(found[2]), 10)}", text)
    return TOTAL.sub(f"({rounded(sum(every), 100):,} in all)", text)


def rounded(number: int, step: int) -> int:
    return (number + step // 2) // step * step


def main() -> None:
    old = PAGE.read_text(encoding="utf-8")
    new = written(old)
    if sys.argv[1:] == ["--check"]:
        if old != new:
            sys.exit("README.md has other numbers of lines than the code: run python dev/way.py")
        return
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
