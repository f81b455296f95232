"""A training that its limit of money ended: saved, backed up, and then the machine may end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from nanochat import checkpoint
from nanochat.commands.base_train import run
from nanochat.console import LimitReachedError, UserError
from nanochat.train import BaseConfig

VALUES: dict[str, Any] = {
    "depth": 1, "dataset": "tinyworld", "max_seq_len": 64, "total_batch_size": 256, "num_iterations": 4,
    "device": "cpu", "dtype": "float32", "compile": "off", "eval_every": -1, "eval_tokens": 1024, "save_every": -1,
    "model_tag": "x",
}  # fmt: skip


@pytest.fixture
def limited(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseConfig:
    for name in ("tokenizer", "data"):
        shutil.copytree(tiny_run / name, tmp_path / "base" / name)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    more = {"backup": str(tmp_path / "far"), "on_finish": f"echo x >> {tmp_path / 'ended'}"}
    return BaseConfig(**VALUES, **more, max_dollars=1e-9, price_per_hour=2.0)


def test_the_command_on_finish_runs_when_the_limit_is_reached_and_again_at_the_end(
    limited: BaseConfig, tmp_path: Path
) -> None:
    with pytest.raises(LimitReachedError, match="--max_dollars=1e-09 is reached at step 1 of 4"):
        run(limited)
    assert (tmp_path / "far/base_checkpoints/x/step_000001/manifest.json").exists()
    assert (tmp_path / "ended").read_text() == "x\n"
    limited.max_dollars = 1000.0
    run(limited)
    assert (tmp_path / "far/base_checkpoints/x/step_000004/manifest.json").exists()
    assert (tmp_path / "ended").read_text() == "x\nx\n"


def test_a_step_that_cannot_be_saved_keeps_the_machine(
    limited: BaseConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "create", full)
    with pytest.raises(UserError, match="is reached at step 1 of 4, and that step could not be saved") as error:
        run(limited)
    assert not isinstance(error.value, LimitReachedError)
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "ended").exists()
