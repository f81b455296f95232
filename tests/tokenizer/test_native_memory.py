"""The native tokenizer under AddressSanitizer and UBSan, against slow versions of itself on random text."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
SECONDS = 60


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    program = tmp_path / "check"
    flags = ["-std=c++20", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["g++", *flags, str(CSRC / "check.cpp"), "-o", str(program)], check=True)
    done = subprocess.run([str(program), str(SECONDS), "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cases agree" in done.stdout
