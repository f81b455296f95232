"""Small runs to back up, made without a training: whole checkpoints of a few bytes, metrics, a tokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path

from nanochat import checkpoint
from nanochat.checkpoint.folder import REQUIRED
from nanochat.hub.backup import Backup, Order
from nanochat.hub.run_files import Unit
from nanochat.hub.target_url import open_target
from nanochat.metrics import MetricsWriter, training_file
from nanochat.paths import base_dir

BASE = Unit("base", "d1")


def make_step(step: int, seed: int = 0, stage: str = "base", tag: str = "d1", size: int = 3000) -> Path:
    chance = random.Random(f"{seed} {stage} {tag} {step}")
    with checkpoint.create(stage, tag, step) as folder:
        for name in (*REQUIRED, "optimizer.safetensors"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(chance.randbytes(size))
        state = {"version": 2, "stage": stage, "tag": tag, "step": step, "steps": 900, "dataset": "tinyworld"}
        (folder / "train_state.json").write_text(json.dumps(state))
    return checkpoint.steps(stage, tag)[step]


def begin_run(stage: str = "base", tag: str = "d1", seed: int = 1) -> None:
    """Metrics of a run that has just begun."""
    MetricsWriter(training_file(stage, tag)).write("settings", seed=seed, machine="a test")


def make_run(*steps: int, seed: int = 0) -> None:
    begin_run(seed=seed)
    for step in steps:
        make_step(step, seed)
    tokenizer = base_dir() / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    (tokenizer / "meta.json").write_text(json.dumps({"seed": seed}))


class Driven(Backup):
    """A backup whose every piece is done when the test says so. said: what it told. moved_bytes: sent or compared."""

    def __init__(self, url: str, *units: Unit, speedrun: bool = False) -> None:
        self.said: list[str] = []
        self.moved_bytes = 0
        super().__init__(open_target(url), lambda m: self.said.extend(str(m[k]) for k in ("say", "warn") if k in m))
        self.open()
        self.begin(Order(list(units) or [BASE], "tinyworld", speedrun, "python -m scripts.base_train --depth=1"))

    def _on_bytes(self, n: int) -> None:
        self.moved_bytes += n
        super()._on_bytes(n)

    def all(self) -> Driven:
        while self.act(self.look(), final=True, small_first=False):
            pass
        return self


def contents(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, but for hidden ones."""
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return {n.as_posix(): (folder / n).read_bytes() for n in names if not any(p.startswith(".") for p in n.parts)}
