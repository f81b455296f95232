"""Where something runs: hardware, software, and the state of the code in git. No names of people, hosts or folders."""

from __future__ import annotations

import functools
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nanochat
from nanochat.console import is_main_rank
from nanochat.machine import cpu_count, cpu_name, memory_bytes

if TYPE_CHECKING:
    import torch

LONGEST = 80  # characters of a commit's subject, as in the seed


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


@functools.cache
def git_state() -> dict[str, Any]:
    """commit, branch, dirty (tracked files have changes) and message (its first line); {} outside of a checkout."""
    root = Path(nanochat.__file__).parents[1]
    if not (root / ".git").exists():
        return {}

    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, timeout=10, check=True)
        return done.stdout.decode(errors="replace").strip()

    try:
        return {
            "commit": git("rev-parse", "--short=12", "HEAD"),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "-uno")),
            "message": git("log", "-1", "--format=%s")[:LONGEST],
        }
    except (OSError, subprocess.SubprocessError):
        return {}
