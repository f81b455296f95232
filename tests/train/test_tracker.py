"""Weights & Biases gets the numbers when it is there; a missing package is said, never silently ignored."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nanochat.console import UserError
from nanochat.metrics import read_metrics
from nanochat.train.state import TrainState
from nanochat.train.tracker import Tracker


def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> list:
    calls: list = []
    run = SimpleNamespace(
        log=lambda values, step: calls.append((values, step)), finish=lambda: calls.append("finished")
    )
    init = lambda **settings: calls.append(settings) or run  # noqa: E731 - a module's function, faked in one line
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return calls


def test_numbers_go_to_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_RUN", "night")
    tracker = Tracker(tmp_path / "m.jsonl", "", TrainState("base", "d4", wandb="ab12"), {"depth": 4})
    tracker.write("step", step=3, loss=1.5, tag="d4")
    tracker.finish()
    assert calls == [
        {
            "id": "ab12",
            "resume": "allow",
            "project": "nanochat",
            "name": "night-base",
            "group": "night",
            "config": {"depth": 4},
        },
        ({"step/step": 3, "step/loss": 1.5}, 3),
        "finished",
    ]
    assert read_metrics(tmp_path / "m.jsonl")[0]["loss"] == 1.5


@pytest.mark.parametrize("name", ["", "dummy"])
def test_no_name_or_dummy_means_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls = fake_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_RUN", name)
    Tracker(tmp_path / "m.jsonl", "", TrainState("base", "d4"), {}).write("step", step=1)
    assert calls == []


def test_a_missing_package_is_an_error_when_asked_for_and_a_warning_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        Tracker(tmp_path / "m.jsonl", "night", TrainState("base", "d4"), {})
    monkeypatch.setenv("WANDB_RUN", "night")
    Tracker(tmp_path / "m.jsonl", "", TrainState("base", "d4"), {})
    assert "wandb is not installed" in capsys.readouterr().err
