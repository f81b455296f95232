"""dev/pictures.py: it finds its way through the pages, and its pictures are small."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI

from nanochat.hub import export_html
from nanochat.metrics import training_file
from nanochat.train.answers import FILE, Answer, add_answers
from tests.conftest import CHROMIUM
from tests.hub.exporting import SHAPES, make, write

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_pictures(
    of_run: Callable[[str], FastAPI],
    served: Callable[[FastAPI], str],
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    app = of_run("sft")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(shutil.copytree(tiny_run, tmp_path / "base")))
    answers = training_file("mid", "d1").with_name(FILE)
    for step in (2, 4):
        said = [Answer("Who are you?", "identity", "I am nanochat.", step > 2)]
        add_answers(answers, step, step * 1024, {"loss": 3.0}, said)
    command = [
        sys.executable,
        str(ROOT / "dev" / "pictures.py"),
        served(app),
        "--second=base",
        f"--folder={tmp_path}",
    ]
    done = subprocess.run([*command, "--questions", "Who are you?"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert sorted(sizes) == ["answers.png", "chat.png", "compare.png", "first.png", "look.png", "watch.png"]
    assert all(5_000 < size < 150_000 for size in sizes.values())


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_picture_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    write(make(SHAPES["heads"], silent=False))
    file = export_html("sft", tmp_path / "bot.html")
    command = [sys.executable, str(ROOT / "dev" / "pictures.py"), str(file), f"--folder={tmp_path}"]
    done = subprocess.run([*command, "--questions", "a hen"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("*.png")] == ["html.png"]
    assert 5_000 < (tmp_path / "html.png").stat().st_size < 150_000
