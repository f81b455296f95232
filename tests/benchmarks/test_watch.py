"""benchmarks.watch: it measures what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.watch import Config, run
from nanochat.console import UserError

ROOT = Path(__file__).parents[2]


def test_no_time_is_refused() -> None:
    with pytest.raises(UserError, match="above 0"):
        run(Config(seconds=0))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes' CPU clocks are Linux's")
def test_what_it_writes(tmp_path: Path) -> None:
    file = tmp_path / "watch.json"
    command = [sys.executable, "-m", "benchmarks.watch", "--seconds=4", f"--json={file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["name"] == "watch" and found["checks"] == {"the page was told of every step": True}
    assert found["ours"].keys() == {"page_cpu_s_per_minute", "plain_cpu_s_per_minute"}
    assert all(0 < seconds < 120 for seconds in found["ours"].values())
