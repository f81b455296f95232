"""The sum over all ranks, in which every step of a training ends: right, and how fast."""

from __future__ import annotations

import time
from typing import Any

from nanochat.console import UserError
from nanochat.machine import setup
from nanochat.pipeline.doctor import ranks
from nanochat.pipeline.doctor.finding import Finding, ok, stop, warning
from nanochat.pipeline.doctor.situation import Situation

GPU_NUMBERS, CPU_NUMBERS = 64 << 20, 1 << 20  # float32 numbers that are summed
TIMES = 5
SLOW = 10e9  # bytes a second and GPU; a PCIe slot of the fourth generation has 25e9
WITHOUT = "Run nvidia-smi topo -m; in Docker, start with --ipc=host; try NCCL_P2P_DISABLE=1"


def all_reduce(now: Situation) -> Finding:
    if now.ranks == 1:
        return ok("one process: nothing to sum")
    if 0 < now.gpus < now.ranks:
        return stop(f"{now.ranks} ranks cannot share {now.gpus} GPUs", "Set NPROC_PER_NODE to the number of GPUs")
    kind = "NCCL" if now.gpus else "gloo"
    try:
        found = ranks.on_all(measure, now)
    except ranks.RanksFailed as error:
        remedy = f"{WITHOUT}; NCCL_DEBUG=INFO tells more" if now.gpus else "Set NPROC_PER_NODE=1"
        return stop(f"{now.ranks} ranks cannot sum with {kind}: {error}", remedy)
    wrong = [str(rank) for rank, one in enumerate(found) if not one["right"]]
    if wrong:
        problem = f"{kind} sums wrongly on rank {', '.join(wrong)} of {now.ranks}"
        return stop(
            problem, f"Try NCCL_P2P_DISABLE=1, or take another machine: {WITHOUT}" if now.gpus else "Update torch"
        )
    speed = min(one["speed"] for one in found)
    text = f"{now.ranks} ranks sum right with {kind}, {speed / 1e9:.3g} GB/s each"
    if now.gpus and speed < SLOW:
        return warning(f"{text}, which is slow", f"{WITHOUT} only if it hangs")
    return ok(text)


def measure(now: Situation) -> dict[str, Any]:
    """On every rank: whether the sum is right everywhere, and bytes a second that it sends and gets."""
    import torch
    import torch.distributed as dist

    machine = setup()
    rank, world = machine.ranks.rank, machine.ranks.world
    if world != now.ranks:
        raise UserError(f"{world} ranks were started, not {now.ranks}", "Unset WORLD_SIZE")
    numbers = torch.arange(GPU_NUMBERS if now.gpus else CPU_NUMBERS, device=machine.device) % 1021
    want = numbers.float() * (world * (world + 1) // 2)  # whole numbers, so that every order of sums is exact
    right, best = True, float("inf")
    for _ in range(TIMES):
        given = numbers.float() * (rank + 1)
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(given)
        given[0].item()  # waits for the GPU
        best = min(best, time.perf_counter() - began)
        right = right and bool((given == want).all().item())
    return {"right": right, "speed": given.nbytes * 2 * (world - 1) / world / best}
