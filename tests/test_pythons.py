"""The Pythons that pyproject.toml declares, besides the one that runs this: those that are at hand build the package,
pass what every wheel has to, and train where a torch for processors can be had for them. PyTorch's index has those. On
Linux PyPI has only torch with CUDA, of several GB for each Python."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.test_wheel import book

ROOT = Path(__file__).parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
VERSIONS = ["3.11", "3.12", "3.13", "3.14"]


def interpreter(version: str) -> str | None:
    """On PATH, or of pyenv."""
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for found in [*map(str, kept), shutil.which(f"python{version}")]:
        if found and subprocess.run([found, "-c", "import venv"], capture_output=True).returncode == 0:
            return found
    return None


class Environment:
    """Of a Python, beside a copy of this tree. Skips the test where there is none."""

    def __init__(self, version: str, folder: Path) -> None:
        if sys.version_info[:2] == tuple(map(int, version.split("."))):
            pytest.skip("runs everything already")
        python = interpreter(version)
        if python is None or not (shutil.which("cmake") and shutil.which("c++")):
            pytest.skip(f"there is no Python {version} here, or no compiler")
        self.folder, self.source, bin = folder, str(folder / "source"), folder / "venv" / "bin"
        ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "build", "dist")
        shutil.copytree(ROOT, self.source, ignore=ignored)
        subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True)
        self.variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.variables["PATH"] = f"{bin}{os.pathsep}{self.variables['PATH']}"
        self.variables |= {"NANOCHAT_BASE_DIR": str(folder / "base"), "CUDA_VISIBLE_DEVICES": ""}

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        shell = ["sh", "-c", command]
        return subprocess.run(shell, cwd=self.folder, env=self.variables, capture_output=True, text=True)

    def pip(self, *what: str) -> subprocess.CompletedProcess[str]:
        return self.run(shlex.join(["python", "-m", "pip", "install", "--quiet", *what]))

    def install(self, *what: str) -> None:
        done = self.pip(*what)
        if "No matching distribution" in done.stderr:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_package_is_built_and_passes(version: str, tmp_path: Path) -> None:
    environment = Environment(version, tmp_path)
    environment.install("--no-deps", environment.source)
    for command in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["test-command"]:
        done = environment.run(command)
        assert done.returncode == 0, (command, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_it_trains_and_answers(version: str, tmp_path: Path) -> None:
    constraints = ROOT / "constraints.txt"
    [torch] = re.findall(r"^torch==\S+$", constraints.read_text(), re.MULTILINE)
    if sys.platform == "linux":
        torch += "+cpu"
    environment = Environment(version, tmp_path)
    done = environment.pip("--retries=1", f"--extra-index-url={CPU_INDEX}", torch)
    if done.returncode:
        pytest.skip(f"no {torch} for Python {version}: {CPU_INDEX} did not give it, and PyPI does not have it")
    environment.install("--constraint", str(constraints), environment.source)
    (tmp_path / "book.txt").write_text(book())
    for command in (
        "nanochat speedrun --dataset book.txt --depth=1 --vocab-size=400 --time-budget=5s",
        "nanochat chat_cli -p 'Who are you?'",
    ):
        done = environment.run(command)
        assert done.returncode == 0 and done.stdout.strip(), (command, done.stdout[-3000:], done.stderr[-3000:])
