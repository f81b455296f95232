"""The race with transformers, in its shortest form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.export import Config, run
from nanochat.console import UserError

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_give_the_same_tokens(tmp_path: Path) -> None:
    small = ["--depth=2", "--width=64", "--vocab=300", "--new=20", "--prompts=3", "--runs=1"]
    call = [sys.executable, "-m", "benchmarks.export", *small, f"--json={tmp_path / 'result.json'}"]
    subprocess.run(call, cwd=ROOT, check=True, timeout=300)
    found = json.loads((tmp_path / "result.json").read_text())
    assert len(found["checks"]) == 6 and all(found["checks"].values())
    assert set(found["ratio"]["transformers"]) >= {"speed", "classic_one_speed", "modern_together_speed"}


@pytest.mark.parametrize(
    ("name", "value"), [("runs", 0), ("prompts", 0), ("prompts", 9), ("vocab", 100), ("vocab", 70000)]
)
def test_settings_that_cannot_be_are_refused_before_anything_is_made(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--{name} is .*Give a number from "):
        run(Config(**{name: value}))
