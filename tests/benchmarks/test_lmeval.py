"""lm-eval beside our evaluation, in its shortest form; only where lm-eval is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from nanochat.eval import missing_bundle
from nanochat.paths import eval_bundle_dir

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_both_make_the_same_choices(tmp_path: Path) -> None:
    if missing_bundle(eval_bundle_dir()):
        pytest.skip("no evaluation bundle")
    call = [sys.executable, "-m", "benchmarks.lmeval", "--items=3", f"--json={tmp_path / 'result.json'}"]
    subprocess.run(call, cwd=ROOT, check=True, timeout=300)
    found = json.loads((tmp_path / "result.json").read_text())
    assert len(found["checks"]) == 8 and all(found["checks"].values())
    assert {row["n"] for row in found["ours"]["tasks"].values()} == {3}
