"""Main memory: of the machine, of this container, and what ranks share."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from nanochat.console import file_size
from nanochat.machine import memory_bytes
from nanochat.pipeline.doctor.finding import Finding, ok, stop, together, warning
from nanochat.pipeline.doctor.situation import Situation
from nanochat.pipeline.room import parameters

MEMINFO, CGROUPS, OWN_CGROUPS = Path("/proc/meminfo"), Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
SHARED = Path("/dev/shm")
LEAST_SHARED = 1 << 30  # bytes; NCCL's own buffers take some hundreds of MB for eight GPUs, and Docker gives 64 MB
OF_A_RANK = 3e9  # bytes of main memory: Python, torch, CUDA's libraries, text read ahead
OF_A_CPU = 1.5e9  # the same without CUDA
TRAINED = 16  # bytes a weight on a CPU: itself, its gradient, two moments


def memory(now: Situation) -> Finding:
    """Whether training fits, and whether ranks can share memory."""
    found = [_room(now)]
    if now.ranks > 1 and SHARED.is_dir():
        found.append(_shared())
    if now.gpus:
        found.append(_on_the_gpu(now))
    return together(found)


def needed(now: Situation) -> float:
    """Bytes of main memory. Saves are copied there first."""
    weights = parameters(now.model)
    own = OF_A_RANK if now.gpus else OF_A_CPU
    return now.ranks * (own + (0 if now.gpus else TRAINED * weights)) + now.checkpoint_bytes


def _room(now: Situation) -> Finding:
    total, free, limit = memory_bytes(), available(), cgroup_limit()
    whole = min(total, limit[0]) if limit else total
    free = min(free, limit[0] - limit[1]) if limit else free
    of = " (the limit of this container)" if limit and limit[0] < total else ""
    need = needed(now)
    said = f"{file_size(int(free))} of {file_size(int(whole))} free{of}"
    short = f"{said}, and {now.what} needs about {file_size(int(need))}"
    if whole < need:
        more = "Give the container more (docker run --memory)" if of else "Take a machine with more main memory"
        return stop(short, f"{more}, or a smaller --depth")
    if free < need:
        return warning(short, "End other programs that use memory")
    return ok(f"{said}; {now.what} needs about {file_size(int(need))}")


def _on_the_gpu(now: Situation) -> Finding:
    """Whether the model can be trained on these cards at all. Between surely and surely not, speedrun looks closer."""
    from nanochat.pipeline.room import held, surely
    from nanochat.train.fitting import USABLE

    usable = USABLE * now.memory
    if not now.memory:
        return ok("")
    card = f"GPUs of {file_size(now.memory)}"
    if held(now.model, now.ranks) > usable:
        return stop(f"{now.what} does not fit {card}", "Give a smaller --depth, or use larger GPUs or more of them")
    return ok(f"it fits {card}" if surely(now.model, now.ranks) < usable else f"it may fit {card}")


def available() -> float:
    """Bytes that programs can get without swapping."""
    with suppress(OSError, ValueError, IndexError):
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return memory_bytes()


def cgroup_limit() -> tuple[int, int] | None:
    """The least limit of this process's groups, and what is used of it, in bytes; None without one."""
    found: list[tuple[int, int]] = []
    for folder in _groups():
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):  # "max" is no number
                most, now = (int((folder / name).read_text()) for name in (limit, used))
                if most < memory_bytes():
                    found.append((most, max(0, now - _cached(folder, cache))))
    return min(found, default=None)


def _groups() -> list[Path]:
    """Folders of the groups that this process is in, and of those around them. Within a container, its own is the
    root."""
    paths = {""}
    with suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            controllers, _, path = line.partition(":")[2].partition(":")
            if controllers in ("", "memory"):
                parts = [part for part in path.split("/") if part and part != ".."]
                paths |= {"/".join(parts[:n]) for n in range(len(parts) + 1)}
    return [CGROUPS / start / path for start in ("", "memory") for path in sorted(paths)]


def _cached(folder: Path, name: str) -> int:
    """Bytes of files that the system remembers, and forgets when a program needs memory."""
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.split()[:1] == [name]:
                return int(line.split()[1])
    return 0


def _shared() -> Finding:
    facts = os.statvfs(SHARED)
    size, free = facts.f_frsize * facts.f_blocks, facts.f_frsize * facts.f_bavail
    if free < LEAST_SHARED:
        problem = f"{SHARED} has {file_size(free)} free of {file_size(size)}, which may be too little for NCCL"
        return warning(problem, "Start the container with --ipc=host or --shm-size=8g")
    return ok(f"{file_size(free)} in {SHARED}")
