"""notebooks/nanochat.ipynb: a valid, small, clean notebook, whose cells run. A T4 was not tried."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "notebooks" / "nanochat.ipynb"


def read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def code() -> list[str]:
    return ["".join(cell["source"]) for cell in read()["cells"] if cell["cell_type"] == "code"]


def test_it_is_a_notebook_without_outputs() -> None:
    notebook = read()
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert FILE.stat().st_size < 10_000
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", one) for one in ids)
    for cell in notebook["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            keys |= {"execution_count", "outputs"}
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert cell.keys() == keys and cell["metadata"] == {}


def test_its_cells_are_python_and_its_commands_are_ours() -> None:
    for source in code():
        ast.parse(source)
    called = re.findall(r'\*NANOCHAT, "(\w+)"', "\n".join(code()))
    assert called == ["doctor", "speedrun", "chat_cli", "export_html"]
    assert all((ROOT / "nanochat" / "commands" / f"{name}.py").exists() for name in called)


@pytest.mark.slow
def test_all_cells_run_on_a_cpu(tmp_path: Path) -> None:
    """In one process, one after another, as a kernel would, with a text and flags that make a tiny model of it."""
    from nanochat.synthetic.tinyworld import World, document

    world = World(3)
    (tmp_path / "book.txt").write_text("\n\n".join(document(world, 0, k) for k in range(2000)))
    choose, *others = code()
    mine = 'TEXT, BUDGET, EXTRA = "book.txt", "5s", "--depth=1 --vocab-size=400"'
    (tmp_path / "cells.py").write_text("\n\n".join([choose, mine, *others]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "A short conversation with your model" in done.stdout and "Download my_bot.html" in done.stdout
    page = (tmp_path / "my_bot.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>") and len(page) > 100_000
    assert (tmp_path / "nanochat-run" / "chatsft_checkpoints").is_dir()
