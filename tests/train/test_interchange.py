"""A run may go on with another number of ranks: base, mid, sft and rl end with the same weights, but for rounding."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nanochat.paths import STAGES
from nanochat.train.run import Run
from tests.train import jobs
from tests.train.launching import torchrun

COMMON: dict[str, Any] = {
    "answers": False,
    "device": "cpu",
    "dtype": "float32",
    "compile": "off",
    "eval_every": -1,
    "model_tag": "d1",
    "save_every": 2,
    "keep": 9,
    "num_iterations": 6,
    "deterministic": True,
}
# Rates so small, and a model without scalars, that the optimisers, which make steps of gradients' signs, do not blow
# rounding up: see test_equivalence. The later stages' rates are shares of the first one's.
CONFIGS: dict[str, dict[str, Any]] = {
    "base": {
        **COMMON, "depth": 1, "arch": "classic", "dataset": "tinyworld", "max_seq_len": 64, "total_batch_size": 1024,
        "matrix_lr": 0.002, "embedding_lr": 0.01, "unembedding_lr": 0.001, "scalar_lr": 0.001, "weight_decay": 0.01,
        "eval_tokens": 1024,
    },
    "mid": {**COMMON, "conversations": 100, "total_batch_size": 1024, "eval_tokens": 1024},
    "sft": {**COMMON, "conversations": 100, "total_batch_size": 1024, "eval_tokens": 1024},
    "rl": {
        **COMMON, "examples_per_step": 5, "num_samples": 4, "max_new_tokens": 12, "eval_examples": 4, "eval_samples": 2,
    },
}  # fmt: skip
BEFORE = {"mid": "base", "sft": "mid", "rl": "sft"}


@dataclass
class Place:
    """Where runs are. A run has a base dir for each of its stages, in which the stage before is the first run's."""

    tiny: Path
    root: Path

    def base(self, run: str, stage: str = "") -> Path:
        folder = self.root / run / stage
        if not folder.exists():
            folder.mkdir(parents=True)
            for name in ("tokenizer", "data"):
                (folder / name).symlink_to(self.tiny / name)
            if stage in BEFORE:
                name = STAGES[BEFORE[stage]]
                (folder / name).symlink_to(self.root / "one" / name)
        return folder

    def step(self, run: str, stage: str, step: int) -> Path:
        return self.base(run, "" if run == "one" else stage) / STAGES[stage] / "d1" / f"step_{step:06d}"

    def jobs(self, run: str, begin: str = "", step: int = 0) -> list[jobs.Job]:
        """All stages of a run. begin: another run, with whose checkpoint of that step each stage begins."""
        if not begin:
            return [{"base": str(self.base(run)), "stage": stage, "config": CONFIGS[stage]} for stage in CONFIGS]
        return [
            {
                "base": str(self.base(run, stage)),
                "stage": stage,
                "config": CONFIGS[stage],
                "begin": str(self.step(begin, stage, step)),
            }
            for stage in CONFIGS
        ]

    def ranks(self, count: int, given: list[jobs.Job]) -> None:
        file = self.root / "jobs.json"
        file.write_text(json.dumps(given))
        if count > 1:
            torchrun(self.root, count, "tests.train.jobs", str(file))
        else:
            try:
                jobs.do(given)
            finally:
                torch.use_deterministic_algorithms(False)

    def furthest(self, stage: str, run: str, other: str) -> float:
        """The largest difference of two runs' weights. The other one must have gone on where it began."""
        end = self.step(other, stage, 6)
        assert not end.parent.with_name("d1.previous-1").exists()
        return _furthest(self.step(run, stage, 6), end)


def _furthest(*folders: Path) -> float:
    a, b = (load_file(folder / "model.safetensors") for folder in folders)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@dataclass
class Randomness:
    """States of the global generators around the trainings' steps."""

    before: list[Any]
    after: list[Any]


def _generators() -> tuple[Any, ...]:
    _, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), keys.tolist(), rest


@pytest.fixture(scope="module")
def place(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tiny_run, tmp_path_factory.mktemp("interchange"))


@pytest.fixture(scope="module")
def one(place: Place) -> Randomness:
    """The run "one": all stages on one rank, uninterrupted."""
    seen, train = Randomness([], []), Run.train

    def watched(run: Run) -> None:
        seen.before.append(_generators())
        train(run)
        seen.after.append(_generators())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train", watched)
        place.ranks(1, place.jobs("one"))
    return seen


@pytest.fixture(scope="module")
def two(place: Place, one: Randomness) -> None:
    """The run "two": two ranks, from the first one's step 2 on; "again": from its step 4 on."""
    place.ranks(2, [*place.jobs("two", "one", 2), *place.jobs("again", "two", 4)])


def test_no_step_draws_from_a_global_generator(one: Randomness) -> None:
    """Weights, orders and samples come from generators of their own, seeded by the settings and the position in the
    run. So a checkpoint has no generator's state to save, and one of two ranks serves any other number."""
    assert len(one.before) == len(CONFIGS)
    assert one.before == one.after


@pytest.mark.slow
def test_another_number_of_ranks_goes_on(place: Place, one: Randomness, two: None) -> None:
    """One rank, then two, then one."""
    place.ranks(1, place.jobs("back", "two", 4))
    for stage in CONFIGS:
        assert _furthest(place.step("one", stage, 2), place.step("one", stage, 6)) > 1e-4  # so that 1e-6 says something
        assert len(list(place.step("two", stage, 4).glob("optimizer-*-of-00002.safetensors"))) == 2
        assert place.furthest(stage, "one", "two") < 1e-6
        assert place.furthest(stage, "one", "back") < 1e-6


@pytest.mark.slow
def test_the_same_number_of_ranks_goes_on_with_the_same_bits(place: Place, two: None) -> None:
    for stage in CONFIGS:
        assert place.furthest(stage, "two", "again") == 0.0


@pytest.mark.slow
def test_four_ranks(place: Place, one: Randomness, two: None) -> None:
    """One rank, then four; two, then four; four, then two, or one."""
    place.ranks(4, [*place.jobs("four", "one", 2), *place.jobs("two-four", "two", 4)])
    place.ranks(2, place.jobs("four-two", "four", 4))
    place.ranks(1, place.jobs("four-one", "four", 4))
    for stage in CONFIGS:
        for run in ("four", "two-four", "four-two", "four-one"):
            assert place.furthest(stage, "one", run) < 1e-6, (stage, run)
