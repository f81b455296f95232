"""What failed saves could not delete is deleted before a run ends."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.machine import Ranks
from nanochat.train import BaseConfig, saving, train_base
from nanochat.train.saving import Saver
from nanochat.train.state import TrainState


@pytest.fixture
def base(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tokenizer").symlink_to(tiny_run / "tokenizer")
    (tmp_path / "data").symlink_to(tiny_run / "data")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


def test_half_a_checkpoint_that_could_not_be_deleted(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = saving.save_file
    fails = [True]

    def save_file(tensors: dict[str, Any], path: Path) -> None:
        real(tensors, path)
        if fails:
            fails.clear()
            monkeypatch.setattr(shutil, "rmtree", lambda folder, ignore_errors=False: None)
            raise OSError(30, "Read-only file system")
        monkeypatch.undo()  # the disk can be written again
        monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))

    monkeypatch.setattr(saving, "save_file", save_file)
    values: dict[str, Any] = {"device": "cpu", "dtype": "float32", "compile": "off", "eval_every": -1}
    train_base(
        BaseConfig(
            depth=1, dataset="tinyworld", max_seq_len=64, total_batch_size=256, num_iterations=6, save_every=2,
            eval_tokens=256, **values,
        )
    )  # fmt: skip
    assert not fails and 6 in checkpoint.steps("base", "d1")
    assert not list(base.rglob("*.part"))


class Store:
    """Of ranks whose first one could not save."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def check(self, keys: list[str]) -> bool:
        return True

    def get(self, key: str) -> bytes:
        return b"the disk is full"

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()


def test_a_ranks_part_of_a_save_that_failed_on_the_first_one(base: Path) -> None:
    """On a full disk, the parts of every save that failed would keep it full."""
    saver = object.__new__(Saver)
    saver.ranks, saver._store, saver._run = Ranks(1, 1, 2), Store(), "x"  # type: ignore[assignment]
    with pytest.raises(UserError, match="the disk is full"):
        saver._write_part(1, TrainState("base", "d1", step=4), {"a": torch.zeros(3)})
    assert any(b"sha256" in value for value in saver._store.values.values())  # type: ignore[union-attr]
    assert not list(base.rglob("*.part"))
