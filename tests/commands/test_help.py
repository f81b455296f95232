"""Every command answers --help quickly: without importing torch, and listed by `nanochat`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import nanochat
from nanochat.__main__ import names, usage

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "pyarrow", "tokenizers", "tiktoken", "matplotlib", "fastapi", "huggingface_hub")
PROBE = f"""
import runpy, sys
module = sys.argv.pop(1)
sys.argv[1:] = ["--help"]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
print("HEAVY", [m for m in {HEAVY!r} if m in sys.modules])
"""


@pytest.mark.parametrize("module", [*(f"scripts.{n}" for n in names()), "nanochat.dataset", "nanochat.report"])
def test_help_needs_nothing_heavy(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, module], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    assert "HEAVY []" in done.stdout, done.stdout[-300:]


def test_every_command_is_listed_with_a_sentence() -> None:
    listed = [line.split(None, 1) for line in usage().splitlines()[3:]]
    assert {"base_train", "chat_cli", "chat_web", "speedrun", "tok_train"} <= {line[0] for line in listed}
    assert all(len(line) == 2 and len(line[1]) > 10 for line in listed)


def test_the_version_is_told() -> None:
    done = subprocess.run([sys.executable, "-m", "nanochat", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"nanochat {nanochat.__version__}\n")


def test_an_unknown_command_is_one_line_and_exit_code_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nanochat", "base_trian"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == "error: there is no command 'base_trian'. Did you mean base_train?\n"
