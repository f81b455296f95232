"""What the README says of the code is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_files_of_the_main_way_have_the_lines_it_says() -> None:
    table = README.split("\n## How the code is laid out\n")[1].split("\n\nBeside this way")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if ".py`" in line]
    numbers = [int(number) for row in rows for number in re.findall(r"`[\w/]+\.py` (\d+)(?:,|\s*$)", row)]
    assert len(numbers) == table.count(".py`") > 30 and len(re.findall(r"\([\d,]+ in all\)", README)) == 1
    done = subprocess.run([sys.executable, "dev/way.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
