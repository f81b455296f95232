"""Threads on a CPU: who gets how many."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nanochat import machine
from nanochat.machine import Ranks


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What torch was told."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    return told


def hyperthreads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight hardware threads on four cores."""
    for i in range(8):
        folder = tmp_path / f"cpu{i}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{i % 4},{i % 4 + 4}\n")
    monkeypatch.setattr(machine, "TOPOLOGY", tmp_path)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize("faster", [4, 8])
def test_cores_or_hardware_threads_whichever_is_faster(
    faster: int, threads: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hyperthreads(monkeypatch, tmp_path)
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0 if threads[-1] == faster else 2.0
        return now

    monkeypatch.setattr(time, "perf_counter", clock)
    assert (machine.core_count(), machine.cpu_count()) == (4, 8)
    machine.share_cores(Ranks())
    assert threads[-1] == faster


def test_without_a_measurement_one_thread_a_core(
    threads: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hyperthreads(monkeypatch, tmp_path)
    machine.share_cores(Ranks(), measure=False)
    assert threads == [4]


def test_ranks_split_what_there_is(threads: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hyperthreads(monkeypatch, tmp_path)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    machine.share_cores(Ranks(0, 0, 4))
    assert threads == [2]


def test_what_the_person_says_holds(threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine.share_cores(Ranks())
    assert threads == []


def test_only_gloos_group_is_left_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's end waits for ranks that, after an error on this one, wait for it: the launcher would never see it."""
    joined: list[str] = []
    at_end: list[Callable[[], object]] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, timeout: joined.append(backend))
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend, timeout: f"{backend} beside")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda *group: ended.append(group))
    monkeypatch.setattr(machine.atexit, "register", at_end.append)
    monkeypatch.setattr(machine, "_host_group", None)
    ended: list[object] = []
    machine.join("nccl")
    assert joined == ["nccl"]
    [end] = at_end
    end()
    assert ended == [("gloo beside",)]  # and not NCCL's
    machine.join("gloo")
    at_end[1]()
    assert ended[1:] == [()]


def test_the_limit_on_kernels_is_set_before_any_product(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setattr(
        machine, "share_cores", lambda *_, **__: seen.append(os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY"))
    )
    machine.setup("cpu", "float32")
    assert seen == ["128"]
