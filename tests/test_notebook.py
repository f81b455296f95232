"""notebooks/nanochat.ipynb: a valid, small, clean notebook, whose cells run. A T4 was not tried."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import tyro

from nanochat.pipeline.doctor import DoctorConfig, checks, memory
from nanochat.pipeline.doctor.apart import judged
from nanochat.pipeline.doctor.finding import Finding, ok
from nanochat.pipeline.doctor.situation import Situation

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


def what_it_asks_the_doctor(text: str, budget: str) -> list[str]:
    """The arguments of the notebook's own call, from its own cells: only `run` is another."""
    calls: list[tuple[str, ...]] = []
    choose, install = (ast.parse(source) for source in code()[:2])
    install.body = [one for one in install.body if not (isinstance(one, ast.FunctionDef) and one.name == "run")]
    names: dict[str, Any] = {"run": lambda *words: calls.append(words)}
    exec(compile(choose, "choose", "exec"), names)  # cells of this repository, as a reader runs them
    names |= {"TEXT": text, "BUDGET": budget or names["BUDGET"]}
    exec(compile(install, "install", "exec"), names)
    [asked] = [words for words in calls if "doctor" in words]
    return list(asked[asked.index("doctor") + 1 :])


@pytest.mark.parametrize("cards", [1, 2])
@pytest.mark.parametrize(("text", "budget"), [("", ""), ("book.txt", ""), ("book.txt", "1h")])
def test_the_doctor_lets_free_machines_train(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cards: int, text: str, budget: str
) -> None:
    """One T4 (Colab) and two (Kaggle), pretended, with as little memory and disk as those machines have."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("A book.\n" * 1000)
    monkeypatch.setenv("NANOCHAT_DTYPE", "")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    arguments = what_it_asks_the_doctor(text, budget)
    assert os.environ["NANOCHAT_DTYPE"] == "float16"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOCHAT_DTYPE", "float16")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    seen: list[Situation] = []

    class Here:
        """A check in this process. torch's own finding is a T4."""

        def __init__(self, where: str, now: Situation, seconds: float, env: Mapping[str, str]) -> None:
            self.where, self.now = where, now

        def collect(self, *_: object) -> tuple[Finding, float]:
            if self.where.endswith(":cuda"):
                return ok("", gpus=cards, gpu="Tesla T4", capability=7.5, memory=15_828_320_256), 0.0
            seen.append(self.now)
            return judged(self.where, self.now), 0.0

    free = 19 * 10**9
    monkeypatch.setattr(checks, "Apart", Here)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=free, used=0, free=free))
    monkeypatch.setattr("nanochat.pipeline.doctor.disk.MOST", 1 << 20)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 13.6e9 if cards == 1 else 33e9)
    monkeypatch.setattr(memory, "available", lambda: 11e9 if cards == 1 else 30e9)
    monkeypatch.setattr(memory, "cgroup_limit", lambda: None)
    states = lambda config: {r.name: r.finding.state for r in checks.run(config, checks.chosen(config.only, ""))}  # noqa: E731
    config = tyro.cli(DoctorConfig, args=arguments)
    found = states(config)
    assert found.keys() == {"python", "cuda", "disk", "memory"} and "stop" not in found.values()
    assert {(now.dataset, now.gpus) for now in seen} == {(text or "tinyworld", cards)}
    # What the doctor takes for granted with a GPU would not fit there.
    assert "stop" in states(DoctorConfig(only=config.only)).values()


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
    assert re.search(r"torch before the installation: (\d\S+)\ntorch after it: \1\n", done.stdout)
    assert "A short conversation with your model" in done.stdout and "Download my_bot.html" in done.stdout
    page = (tmp_path / "my_bot.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>") and len(page) > 100_000
    assert (tmp_path / "nanochat-run" / "chatsft_checkpoints").is_dir()
