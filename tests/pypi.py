"""Tools of PyPI that slow tests use, each in an environment of its own. No part of the project: they lie in the virtual
environment's folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

FOLDER = Path(sys.prefix) / "pypi"
SECONDS = 300.0  # to fetch one


def tool(program: str, version: str, package: str = "") -> Path:
    """A program of a package of the same name, unless that is given. It is fetched when it is not there yet; where pip
    cannot get it, the test is skipped."""
    name = package or program
    place = FOLDER / f"{name}-{version}"
    FOLDER.mkdir(exist_ok=True)
    with FileLock(FOLDER / f"{name}.lock"):
        if not (place / "whole").exists():
            shutil.rmtree(place, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            command = [str(place / "bin" / "python"), "-m", "pip", "install", "--retries=1", "-q", f"{name}=={version}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            except subprocess.TimeoutExpired:
                pytest.skip(f"{name} is not here: pip could not get it in {SECONDS:g} seconds")
            if done.returncode:
                pytest.skip(f"{name} is not here: {done.stderr.strip().splitlines()[-1:]}")
            (place / "whole").touch()
    return place / "bin" / program
