"""Trainings that a test runs one after the other in one process, or on every rank of one torchrun.

    python -m torch.distributed.run --standalone --nproc_per_node=2 -m tests.train.jobs FILE

A job is {"base", "stage", "config", "begin"?}: a base dir, the settings of that stage's training, and a checkpoint in
another base dir to begin with, as if the run there had been killed.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nanochat.console import is_main_rank
from nanochat.conversation import Conversation
from nanochat.train import BaseConfig, ChatConfig, RLConfig, train_base, train_chat, train_rl
from nanochat.train.run import Run

Job = dict[str, Any]


class Letters:
    """A task for rl: the more "e" an answer holds, the better."""

    name, kind = "Letters", "generative"

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Conversation:
        messages = [{"role": "user", "content": f"Say something about {i}."}, {"role": "assistant", "content": "eee"}]
        return Conversation.from_dict({"messages": messages})

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        return {"right": answer.count("e") > 2}

    def reward(self, i: int, answer: str) -> float:
        return answer.count("e") / max(1, len(answer))


real_save = Run.save


def _save(run: Run) -> None:
    """Whole before the training goes on, so that no scheduled one is left out."""
    real_save(run)
    run.saver.wait()


def do(jobs: list[Job]) -> None:
    for job in jobs:
        base, begin = Path(job["base"]), job.get("begin")
        if begin and is_main_rank():  # the other ranks wait for it to find the checkpoint
            shutil.copytree(begin, base / Path(begin).relative_to(Path(begin).parents[2]))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NANOCHAT_BASE_DIR", str(base))
            patch.setattr(Run, "save", _save)
            _train(job["stage"], job["config"])


def _train(stage: str, config: dict[str, Any]) -> None:
    if stage == "base":
        train_base(BaseConfig(**config))
    elif stage == "rl":
        train_rl(RLConfig(**config), (Letters(), Letters()))
    else:
        train_chat(ChatConfig(stage=stage, **config))  # type: ignore[arg-type]


if __name__ == "__main__":
    do(json.loads(Path(sys.argv[1]).read_text()))
