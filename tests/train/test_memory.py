"""The memory of a step, predicted without running it, is what a real step holds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.memory import TOLERANCE, Case, measured, predicted
from nanochat import machine
from nanochat.model import ModelConfig
from nanochat.train import memory

SMALL = Case(depth=2, rows=8, seq_len=128, vocab=512)


@pytest.mark.parametrize(
    "case",
    [
        replace(SMALL, checkpoint_activations=True),
        pytest.param(SMALL, marks=pytest.mark.slow),
        pytest.param(replace(SMALL, arch="classic", dtype="float32", rows=66), marks=pytest.mark.slow),
    ],
    ids=lambda case: case.name,
)
def test_a_real_step_holds_what_was_predicted(case: Case) -> None:
    assert predicted(case)["peak"] == pytest.approx(measured(case)["peak"], rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["modern", "classic"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_compiled_too(arch: str, dtype: str) -> None:
    case = Case(arch, dtype, compiled=True)  # type: ignore[arg-type]
    assert predicted(case)["peak"] == pytest.approx(measured(case)["peak"], rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "windows", "depth", "how"),
    [
        ("modern", "SL", 9, {"compiled": False, "checkpoint_activations": True}),
        pytest.param("classic", "L", 7, {"compiled": True}, marks=pytest.mark.slow),
        pytest.param("modern", "SSL", 19, {"compiled": True}, marks=pytest.mark.slow),
        ("classic", "L", 7, {"compiled": False, "device": "cpu"}),
    ],
)
def test_some_layers_tell_of_all(
    monkeypatch: pytest.MonkeyPatch, arch: str, windows: str, depth: int, how: dict
) -> None:
    config = ModelConfig(depth, 64, 1, 1, 512, 256, arch, windows=windows)  # type: ignore[arg-type]
    some = memory.predict(config, 2, **how)
    monkeypatch.setattr(memory, "_few_layers", lambda config: (config.depth, 1))
    assert some == memory.predict(config, 2, **how)


@pytest.mark.slow
def test_eight_ranks_share_the_optimiser() -> None:
    config = ModelConfig(8, 128, 2, 2, 512, 256, "classic")
    one, eight = (memory.predict(config, 2, world, compiled=False) for world in (1, 8))
    assert eight.optimizer == pytest.approx(one.optimizer / 8, rel=0.01)
    assert (eight.activations, eight.loss) == (one.activations, one.loss)


TWO = replace(SMALL, world=2, rows=80)


def one_of_two(rank: int, port: int, file: str) -> None:
    import os

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    machine.join("gloo")
    found = measured(TWO)
    if rank == 0:
        Path(file).write_text(json.dumps(found))


@pytest.mark.slow
def test_two_ranks_hold_what_was_predicted(tmp_path: Path, free_port: int) -> None:
    torch.multiprocessing.spawn(one_of_two, (free_port, str(tmp_path / "found")), 2)
    found, expected = json.loads((tmp_path / "found").read_text()), predicted(TWO)
    always = expected["weights"] + expected["gradients"] + expected["optimizer"]
    assert always == pytest.approx(found["always"], rel=0.001)
    assert expected["peak"] == pytest.approx(found["peak"], rel=TOLERANCE)
