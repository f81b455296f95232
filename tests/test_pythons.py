"""The Pythons that pyproject.toml declares, besides the one that runs this: those that are at hand build the package,
and pass what every wheel has to. The suite itself would need a torch for each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = ["3.11", "3.12", "3.13", "3.14"]


def interpreter(version: str) -> str | None:
    """On PATH, or of pyenv."""
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for found in [*map(str, kept), shutil.which(f"python{version}")]:
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True).returncode == 0:
            return found
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_package_is_built_and_passes(version: str, tmp_path: Path) -> None:
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        pytest.skip("runs everything already")
    python = interpreter(version)
    if python is None or not (shutil.which("cmake") and shutil.which("c++")):
        pytest.skip(f"there is no Python {version} here, or no compiler")
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "build", "dist")
    shutil.copytree(ROOT, tmp_path / "source", ignore=ignored)
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    bin = tmp_path / "venv" / "bin"
    install = [str(bin / "python"), "-m", "pip", "install", "--quiet", "--no-deps", str(tmp_path / "source")]
    done = subprocess.run(install, capture_output=True, text=True)
    if "No matching distribution" in done.stderr:
        pytest.skip("what builds the package cannot be had here")
    assert done.returncode == 0, done.stderr[-3000:]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{bin}{os.pathsep}{environment['PATH']}"
    for command in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["test-command"]:
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
