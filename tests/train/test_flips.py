"""A flipped bit in what a checkpoint says of itself costs that checkpoint, and nothing else."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from nanochat import checkpoint
from nanochat.train import BaseConfig, train_base
from nanochat.train import state as states
from nanochat.train.run import Run

VALUES: dict[str, Any] = {
    "depth": 1, "dataset": "tinyworld", "max_seq_len": 64, "total_batch_size": 256, "num_iterations": 6,
    "save_every": 2, "eval_every": -1, "eval_tokens": 256, "device": "cpu", "dtype": "float32", "compile": "off",
}  # fmt: skip
SAMPLE = 300  # flips


@pytest.fixture
def stopped(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, Path]:
    """The checkpoints of a run that was stopped after four steps."""
    (tmp_path / "tokenizer").symlink_to(tiny_run / "tokenizer")
    (tmp_path / "data").symlink_to(tiny_run / "data")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    following = Run.next

    def step(run: Run) -> Any:
        if run.state.step == 4:
            raise KeyboardInterrupt
        return following(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "next", step)
        with pytest.raises(KeyboardInterrupt):
            train_base(BaseConfig(**VALUES))
    return checkpoint.steps("base", "d1")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_state.json", "config.json"])
def test_a_flipped_bit_costs_one_checkpoint(stopped: dict[int, Path], name: str) -> None:
    """It changes names, versions, settings and the horizon: none of that is believed."""
    *_, before, newest = stopped.values()
    wanted, path = states.read(newest), newest / name
    whole = path.read_bytes()
    # The settings, which come first, count as much as the place in the data, which is long.
    rng = random.Random(1)
    bits = [*rng.sample(range(8 * len(whole)), min(SAMPLE, 8 * len(whole)) // 2), *range(0, 8 * 700, 8 * 700 // SAMPLE)]
    for bit in (bit for bit in bits if bit < 8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        found = states.find_resumable(wanted, BaseConfig(**VALUES))
        assert found == before, f"bit {bit}: {whole[bit // 8 - 20 : bit // 8 + 20]!r}"
        [aside] = newest.parent.glob(".step_*.damaged-*")
        aside.rename(newest)
        path.write_bytes(whole)
    assert states.find_resumable(wanted, BaseConfig(**VALUES)) == newest


def test_a_cut_manifest_costs_one_checkpoint(stopped: dict[int, Path]) -> None:
    *_, before, newest = stopped.values()
    wanted, path = states.read(newest), newest / "manifest.json"
    whole = path.read_bytes()
    for size in range(0, len(whole) - 2, 97):  # the last two bytes are "}" and the end of the line
        path.write_bytes(whole[:size])
        assert states.find_resumable(wanted, BaseConfig(**VALUES)) == before
        [aside] = newest.parent.glob(".step_*.damaged-*")
        shutil.move(aside, newest)
