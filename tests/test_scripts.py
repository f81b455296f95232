"""The shell scripts: shellcheck finds nothing in them, and each starts the speedrun that it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("*.sh"), *ROOT.glob("dev/*.sh"), *ROOT.glob("dev/*.sbatch"), ROOT / ".ci" / "run"])
NAMES = [str(path.relative_to(ROOT)) for path in SCRIPTS]


def test_there_are_scripts() -> None:
    assert {"speedrun.sh", "run1000.sh", "dev/runcpu.sh", "runpod_onstart.sh", "dev/slurm.sbatch"} <= set(NAMES)


def test_bash_can_read_them_and_shellcheck_finds_nothing() -> None:
    for path in SCRIPTS:
        subprocess.run(["bash", "-n", str(path)], check=True)
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", "--external-sources", *NAMES], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a folder of their own. Its Python is this one, but pip only notes that it was called."""
    for name in ("speedrun.sh", "run1000.sh", "dev/runcpu.sh", "dev/setup.sh", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CMakeLists.txt").touch()
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cpp").touch()
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    (bin / "python").write_text(f'#!/bin/sh\n[ "$2" = pip ] && echo "$@" >>"{tmp_path}/pip" && exit\nexit 1\n')
    (bin / "nanochat").write_text(
        f'#!/bin/sh\necho "CALLED $NANOCHAT_CALLED_AS; CUDA ${{CUDA_VISIBLE_DEVICES-unset}}; $NPROC_PER_NODE"\n'
        f'PYTHONPATH="{ROOT}" exec "{sys.executable}" -m nanochat "$@"\n'
    )
    for file in bin.iterdir():
        file.chmod(0o755)
    return tmp_path


def start(checkout: Path, script: str, *args: str, **env: str) -> str:
    found = subprocess.run(
        ["bash", str(checkout / script), *args],
        cwd="/",
        env={**os.environ, "PYTHON": sys.executable, "NANOCHAT_BASE_DIR": str(checkout / "base"), **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_larger_run_is_a_speedrun_of_the_seed_and_installs_once(checkout: Path) -> None:
    pretend = ("--dry-run", "--gpu", "h100", "--num-gpus", "8")
    first = start(checkout, "run1000.sh", *pretend)
    again = start(checkout, "run1000.sh", *pretend, "--run", "two words")
    assert "Installing" in first and "Installing" not in again
    assert len((checkout / "pip").read_text().splitlines()) == 1
    for said in (first, again):
        assert "recipe seed, fineweb-edu, depth 32 as if on 8 x H100" in said
        assert "--nproc_per_node=8 -m scripts.base_train -- --depth=32 --arch=classic" in said
        assert "-n 800" in said and "--device_batch_size=8" in said
    assert f"CALLED bash {checkout}/speedrun.sh" in first
    assert "'--run=two words'" in again


def test_the_small_run_sees_no_gpus(checkout: Path) -> None:
    said = start(checkout, "dev/runcpu.sh", "--dry-run", NPROC_PER_NODE="8", CUDA_VISIBLE_DEVICES="0,1")
    assert f"CALLED bash {checkout}/speedrun.sh; CUDA ; \n" in said
    assert "tiny world (seed 0)" in said and "python -m scripts.base_train --depth=4" in said
