"""Rows and activation checkpoints by the memory of a card."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.train import BaseConfig, fitting
from nanochat.train.fitting import even, fit
from nanochat.train.memory import Memory

GB = 10**9


def card(always: float, each: float, frugal_each: float, chunk: float = 0.0) -> tuple[Any, list[tuple[int, bool]]]:
    """A trace whose pass grows by `each` per row, and by a loss whose chunks are full from 4 rows on; and its calls."""
    calls = []

    def memory_of(rows: int, frugal: bool) -> Memory:
        calls.append((rows, frugal))
        kept = rows * (frugal_each if frugal else each)
        return Memory(int(always * GB), 0, 0, int(kept * GB), 0, int(min(rows, 4) * chunk * GB), 0)

    return memory_of, calls


@given(
    always=st.floats(1, 100), each=st.floats(0.05, 20), share=st.integers(1, 600), most=st.integers(1, 128),
    off=st.floats(0.3, 3), room=st.floats(8, 180), chunk=st.floats(0, 1),
)  # fmt: skip
def test_the_most_that_fits(
    always: float, each: float, share: int, most: int, off: float, room: float, chunk: float
) -> None:
    """From a guess that is up to three times off. chunk: times what a row takes."""
    memory_of, calls = card(always, each, each / 20, chunk * each)
    most = min(share, most)
    by_rows = {
        frugal: max((rows for rows in range(1, most + 1) if memory_of(rows, frugal).peak <= room * GB), default=0)
        for frugal in (False, True)
    }
    calls.clear()
    found = fit(memory_of, share, most, max(1, int(by_rows[False] * off)), room * GB)
    assert len(calls) <= 2 * (fitting.TRIES + 1)
    assert found.fits == (max(by_rows.values()) > 0)
    if found.fits:
        largest = by_rows[found.checkpoints]
        assert found.checkpoints == (by_rows[False] == 0)
        assert found.memory.peak <= room * GB and largest / 2 <= found.rows <= largest
        if chunk == 0 and not found.checkpoints:
            assert found.rows == even(share, largest)


def test_checkpoints_that_were_asked_for_are_kept() -> None:
    memory_of, calls = card(1, 1, 0.1)
    assert fit(memory_of, 64, 32, 4, 50 * GB, checkpoints=True).checkpoints
    assert all(frugal for _, frugal in calls)


@pytest.mark.parametrize(
    ("share", "rows", "each"), [(64, 32, 32), (64, 13, 8), (512, 5, 4), (60, 32, 30), (7, 5, 5), (5, 9, 5), (1, 1, 1)]
)
def test_passes_of_a_step_are_of_one_size(share: int, rows: int, each: int) -> None:
    assert even(share, rows) == each


CONFIG = ModelConfig(2, 64, 1, 1, 256, 128, "modern", windows="L")


def gpu(monkeypatch: pytest.MonkeyPatch, room: float) -> Machine:
    monkeypatch.setattr(Machine, "memory", int(room))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(room), int(room)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    return Machine(torch.device("cuda", 0), torch.bfloat16, Ranks())


@pytest.mark.slow
def test_a_training_asks_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A card so small that it takes activation checkpoints."""
    peak = {
        frugal: fitting.traced(
            CONFIG, 2048, 1, "bfloat16", 1e12, most=1, compiled=False, checkpoints=frugal
        ).memory.peak
        for frugal in (False, True)
    }
    between = (peak[True] + peak[False]) / 2
    machine = gpu(monkeypatch, between / fitting.USABLE)
    model = cast(GPT, SimpleNamespace(config=CONFIG, checkpoint_activations=False))
    assert fitting.fit_rows(model, 16, BaseConfig(compile="off"), machine) == 1
    assert model.checkpoint_activations
    told = capsys.readouterr().out
    assert "activation checkpoints: without them not even one sequence fits" in told and "1 x 128 tokens" in told
    # What a person says is done, and nothing is traced.
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("not asked"))
    assert fitting.fit_rows(model, 16, BaseConfig(device_batch_size=4), machine) == 4


def test_a_trace_that_fails_leaves_the_guess(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = gpu(monkeypatch, 24e9)
    model = cast(GPT, SimpleNamespace(config=CONFIG, checkpoint_activations=False))
    answers = iter([SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nKeyError: 'x'"),
                    SimpleNamespace(returncode=0, stdout="nothing", stderr=""),
                    SimpleNamespace(returncode=0, stdout=json.dumps([8, False, 10**9, True]), stderr="")])  # fmt: skip
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: next(answers))
    assert [fitting.fit_rows(model, 16, BaseConfig(), machine) for _ in range(3)] == [16, 16, 8]
    told = capsys.readouterr()
    assert "KeyError: 'x'" in told.err + told.out and not model.checkpoint_activations


def test_a_cpu_does_as_before() -> None:
    model = cast(GPT, SimpleNamespace(config=CONFIG, checkpoint_activations=False))
    cpu = Machine(torch.device("cpu"), torch.float32, Ranks())
    assert fitting.fit_rows(model, 64, BaseConfig(), cpu) == 64
