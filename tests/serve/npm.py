"""Tools of the npm registry that tests use. No part of the project: they lie in the virtual environment's folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

FOLDER = Path(sys.prefix) / "npm"
SECONDS = 180.0  # to fetch one


def package(name: str, version: str) -> Path:
    """The folder of a package, fetched when it is not there yet. Skips the test where npm cannot get it."""
    place = FOLDER / f"{name}-{version}"
    found = place / "node_modules" / name
    FOLDER.mkdir(exist_ok=True)
    with FileLock(FOLDER / f"{name}.lock"):
        if (place / "whole").exists():
            return found
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip(f"{name} is not here: npm is not installed")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--prefer-offline", "--fetch-retries=1"]
        command = [npm, "install", *flags, f"--prefix={place}", f"{name}@{version}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=place)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{name} is not here: npm could not get it in {SECONDS:g} seconds")
        if done.returncode:
            pytest.skip(f"{name} is not here: {done.stderr.strip().splitlines()[-1:]}")
        (place / "whole").touch()
    return found
