"""The machine and the software that the report was made on."""

from __future__ import annotations

import platform

import nanochat
from nanochat.eval import code_commit
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
    return {**found, "Commit": code} if (code := code_commit()) else found


def _gpus() -> str:
    import torch

    if torch.cuda.is_available():
        count, gpu = torch.cuda.device_count(), torch.cuda.get_device_properties(0)
        return f"{count} x {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    return "Apple (mps)" if torch.backends.mps.is_available() else "none"
