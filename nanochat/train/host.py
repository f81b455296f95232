"""Where something runs: hardware, software, and the state of the code in git. No names of people, hosts or folders."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import nanochat
from nanochat.console import is_main_rank
from nanochat.eval import git_state
from nanochat.machine import cpu_count, cpu_name, memory_bytes

if TYPE_CHECKING:
    import torch


def host(device: torch.device | None = None) -> dict[str, Any]:
    """The facts of this machine; bytes for memory. device: that a run computes on; None: whatever is here."""
    import torch

    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "cores": cpu_count(),
        "memory": memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nanochat": nanochat.__version__,
    }
    if torch.cuda.is_available() if device is None else device.type == "cuda":
        gpu = torch.cuda.get_device_properties(0 if device is None else device)
        count = torch.cuda.device_count()
        found |= {"gpu": gpu.name, "gpus": count, "gpu_memory": gpu.total_memory, "cuda": torch.version.cuda}
    return {**found, **(git_state() if is_main_rank() else {})}
