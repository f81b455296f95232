"""A step as a GPU takes it waits once, for the step before it. Each case has its process: a new device is for good."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration as backends

ROOT = Path(__file__).parents[2]
CODE = """import json, sys
from benchmarks.waits import Case, counted
print(json.dumps(counted(Case(**json.loads(sys.argv[1])))))"""

pytestmark = pytest.mark.skipif(
    not hasattr(backends, "_setup_privateuseone_for_python_backend"), reason="a device written in Python"
)


def found(**case: object) -> dict[str, int]:
    call = [sys.executable, "-c", CODE, json.dumps({"name": "", **case})]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return {what: n for what, n in json.loads(done.stdout.splitlines()[-1]).items() if n}


@pytest.mark.parametrize(
    ("world", "arch"), [(8, "modern"), *(pytest.param(n, "classic", marks=pytest.mark.slow) for n in (1, 8))]
)
def test_a_step_waits_for_the_one_before_only(world: int, arch: str) -> None:
    """Two passes: their four tensors go to the device, and the outcome comes back, behind the host's back."""
    assert found(world=world, arch=arch, passes=2) == {"ahead": 5, "late": 1}


@pytest.mark.slow
def test_the_counter_sees_a_step_that_waits() -> None:
    assert found(late=False) == {"reads": 2, "ahead": 2}
