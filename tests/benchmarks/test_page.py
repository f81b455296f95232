"""benchmarks.page: it measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.page.__main__ import Config, run
from nanochat.console import UserError
from tests.conftest import CHROMIUM

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("settings", [{"loads": 0}, {"keys": 0}, {"seconds": 0.0}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Give --loads"):
        run(Config(**settings))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_what_it_writes(tmp_path: Path) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    file = tmp_path / "page.json"
    command = [sys.executable, "-m", "benchmarks.page", "--loads=1", "--keys=3", "--seconds=1", f"--json={file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr  # 1: a busy machine was slow
    found = json.loads(file.read_text())
    assert found["name"] == "page" and set(found["ours"]) > {"chat", "watch", "streaming", "typing"}
    chat = found["ours"]["chat"]
    assert 0 < chat["first_paint_ms"] <= chat["ready_ms"] + 1000 and 20_000 < chat["bytes"] < 150_000
    assert chat["bytes_again"] < chat["bytes"] and found["checks"]["chat: less than 150,000 bytes"]
    streaming = found["ours"]["streaming"]
    assert streaming["letters_at_begin"] > 40_000 and 0 < streaming["ms_per_token"] < 1000
