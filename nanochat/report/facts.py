"""The machine and the software that the report was made on."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import nanochat
from nanochat.machine import cpu_count, cpu_name, memory_bytes


def facts() -> dict[str, str]:
    import torch

    found = {
        "CPU": cpu_name(),
        "Cores": str(cpu_count()),
        "Memory": f"{memory_bytes() / 2**30:.1f} GiB",
        "GPU": _gpus(),
        "System": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "nanochat": nanochat.__version__,
    }
    commit = _commit()
    return {**found, "Commit": commit} if commit else found


def _gpus() -> str:
    import torch

    if torch.cuda.is_available():
        count, gpu = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
        return f"{count} x {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    return "Apple (mps)" if torch.backends.mps.is_available() else "none"


def _commit() -> str:
    """The commit of this code, with a word when files have changed since; "" outside of git."""
    here = Path(nanochat.__file__).parent
    if not (here.parent / ".git").exists():
        return ""
    try:
        git = ["git", "-C", str(here.parent)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + (" (with local changes)" if changes.stdout.strip() else "")
