"""What a step used, and where a run took place, in its metrics."""

from __future__ import annotations

import mmap
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import nanochat
from nanochat.eval import git_state
from nanochat.machine import Machine, Ranks
from nanochat.metrics import read_metrics, training_file
from nanochat.train import BaseConfig, train_base
from nanochat.train.host import host
from nanochat.train.usage import Usage

CPU = Machine(torch.device("cpu"), torch.float32, Ranks())


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))


def test_memory_is_what_the_process_has() -> None:
    usage = Usage(CPU, 0)
    before = usage.step(1.0)["memory"]
    held = mmap.mmap(-1, 64 << 20)  # not from what was freed before
    for place in range(0, len(held), mmap.PAGESIZE):
        held[place] = 1
    grown = usage.step(1.0)["memory"] - before
    assert 0.9 < grown / len(held) < 1.2


def test_the_share_of_the_peak_is_of_all_devices() -> None:
    one, two = (Usage(Machine(CPU.device, CPU.dtype, Ranks(world=n)), 1000) for n in (1, 2))
    assert one.step(5.0)["mfu"] == pytest.approx(5000 / one.peak)
    assert two.peak == 2 * one.peak > 0
    assert "mfu" not in Usage(CPU, 0).step(5.0)
    assert Usage(CPU, 1000, fp8=True).step(5.0)["mfu"] == pytest.approx(one.step(5.0)["mfu"] / 2)


def test_measuring_draws_no_number_of_the_run() -> None:
    from nanochat.machine import _measured_peak

    _measured_peak.cache_clear()
    before = torch.get_rng_state()
    Usage(CPU, 1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_host_has_no_names_of_its_owner() -> None:
    found = host()
    assert {"cpu", "cores", "memory", "system", "python", "torch", "nanochat"} <= found.keys()
    assert str(Path(nanochat.__file__).parents[1]) not in str(found) and str(Path.home()) not in str(found)
    if git := git_state():
        assert git.keys() == {"commit", "branch", "dirty", "message"} and len(git["message"]) <= 80
        assert git.items() <= found.items()


def test_a_run_tells_it_of_every_step_and_of_every_start(tiny_run: Path, tmp_path: Path) -> None:
    for name in ("tokenizer", "data"):
        shutil.copytree(tiny_run / name, tmp_path / name)
    config = BaseConfig(
        depth=1, dataset="tinyworld", max_seq_len=64, total_batch_size=128, num_iterations=3, device="cpu",
        dtype="float32", compile="off", eval_every=-1, eval_tokens=128, model_tag="a",
    )  # fmt: skip
    train_base(config)
    train_base(replace(config, num_iterations=5, resume=True))
    rows = read_metrics(training_file("base", "a"))
    first, again = (next(r for r in rows if r["kind"] == kind) for kind in ("settings", "resume"))
    assert again["step"] == 3 and "matrix_lr" not in again
    assert [again[name] for name in ("machine", "dtype", "ranks")] == [CPU.name, "float32", 1]
    assert again["host"] == first["host"] and {**host(CPU.device), **first["host"]} == host(CPU.device)
    steps = [r for r in rows if r["kind"] == "step"]
    assert [r["step"] for r in steps] == [1, 2, 3, 4, 5]
    assert all(r["mfu"] > 0 and 1e7 < r["memory"] < 1e11 for r in steps)
