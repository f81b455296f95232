"""Everything that lets a model answer does it by the fastest runner of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat.commands import base_eval, chat_cli, chat_eval
from nanochat.inference import engine as engine_module
from nanochat.inference.choosing import runner_for
from nanochat.inference.native_runner import NativeRunner
from nanochat.inference.runner import Runner
from nanochat.inference.torch_runner import TorchRunner
from nanochat.model import GPT
from nanochat.native import level
from nanochat.pipeline.farewell import farewell
from nanochat.train import RLConfig, train_rl

CPU: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
USES: dict[str, Callable[[], object]] = {
    "chat": lambda: chat_cli.run(chat_cli.Config(prompt="hi", max_tokens=3, **CPU)),
    "grades": lambda: chat_eval.run(chat_eval.Config(task="SpellingBee", max_problems=2, max_new_tokens=3, **CPU)),
    "samples": lambda: base_eval.run(base_eval.Config(eval="sample", **CPU)),
    "farewell": lambda: farewell("tinyworld", "d1", 0),
    "reinforcement": lambda: train_rl(
        RLConfig(
            source="sft", task="SpellingBee", num_iterations=2, examples_per_step=2, num_samples=2, max_new_tokens=3,
            eval_every=-1, save_every=-1, compile="off", answers=False, **CPU,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_answers_come_from_the_fastest_runner(
    use: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_run, tmp_path / "base")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("NANOCHAT_DTYPE", "float32")
    monkeypatch.chdir(tmp_path)
    made: list[Runner] = []
    steps: list[int] = []

    def recorded(model: GPT, *given: Any) -> Runner:
        runner = runner_for(model, *given)
        step = runner.step
        runner.step = lambda chunks: (steps.append(len(chunks)), step(chunks))[1]  # type: ignore[method-assign]
        made.append(runner)
        return runner

    monkeypatch.setattr(engine_module, "runner_for", recorded)
    USES[use]()
    assert [type(runner) for runner in made] == [NativeRunner if level() else TorchRunner]
    assert len(steps) >= 3
