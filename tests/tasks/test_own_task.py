"""docs/tasks.md runs from top to bottom as it stands."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nanochat.commands import chat_sft
from nanochat.tasks import Task, read_mixture

PAGE = (Path(__file__).parents[2] / "docs/tasks.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_runs(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, tmp_path / "base")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("NANOCHAT_DTYPE", "float32")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}
    tables = [text for language, text in BLOCKS if language == "toml"]
    (tmp_path / "count_r.toml").write_text(tables[0])
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, "docs/tasks.md", "exec"), names)
        elif language == "bash" and "chat_sft" in text:
            flags = text.split()[3:]
            assert flags == ["--mixture=count_r.toml"]
            # Fewer steps than a person takes, and no compiler; the rest as it stands.
            quick = ["--num_iterations=2", "--compile=off", "--device=cpu", "--eval_tokens=1024"]
            monkeypatch.setattr(sys, "argv", ["chat_sft", *flags, *quick])
            chat_sft.main()
    task = names["CountR"]()
    assert isinstance(task, Task)
    assert task[0].messages[0].text == "How many r are in strawberry?"
    assert task.grade(0, "There are 3 r in strawberry.") == {"right": True}
    assert task.grade(0, "There are 2 r in strawberry.") == {"right": False}
    out = capsys.readouterr().out
    assert "conversations from count_r.jsonl 7 x 20, SpellingBee 500" in out
    assert re.search(r"^[0-3] of 3 right$", out, re.MULTILINE)


def test_the_other_mixture_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted; GSM8K is not here, so that a set that is takes its place."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    tables = [text for language, text in BLOCKS if language == "toml"]
    chat = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]\n'
    (tmp_path / "count_r.jsonl").write_text(chat)
    (tmp_path / "mix.toml").write_text(tables[1].replace('"GSM8K"', '"SimpleSpelling"').replace("20000", "30"))
    mixture = read_mixture(tmp_path / "mix.toml", "mid")
    assert mixture.describe() == "SimpleSpelling 20, count_r.jsonl 1 x 10"
