"""What .ci/run does where the data pack is missing: it says so and fails, unless that was asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("data", "flag", "passes"), [(True, "", True), (False, "", False), (False, "1", True), (False, "0", False)]
)
def test_missing_data_is_an_error(data: bool, flag: str, passes: bool, tmp_path: Path) -> None:
    (tmp_path / "main" / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / "main" / ".ci" / "run")
    (tmp_path / "main" / "test.sh").write_text("echo the tests run")
    if data:
        (tmp_path / "shared" / "data").mkdir(parents=True)
    environment = {
        **{k: v for k, v in os.environ.items() if k != "NANOCHAT_NO_DATA"},
        **({"NANOCHAT_NO_DATA": flag} if flag else {}),
    }
    done = subprocess.run(
        ["bash", str(tmp_path / "main/.ci/run")], env=environment, capture_output=True, text=True, cwd="/"
    )
    assert (done.returncode == 0) == passes == ("the tests run" in done.stdout)
    assert ("NANOCHAT_NO_DATA=1" in done.stderr) != passes
