"""The card, the software, and what both reach: matrix products and copies."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import seconds_of


def pieces(sizes: Sizes) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        "machine": partial(machine, sizes),
        "matmul": partial(matmul, sizes),
        "bandwidth": partial(lambda s: {"gb_per_s": bandwidth(s) / 1e9}, sizes),
        "host": partial(host, sizes),
    }


def machine(sizes: Sizes) -> dict[str, Any]:
    import torch

    from nanochat.machine import cpu_count, cpu_name, has_compiler

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "triton": _version("triton"),
        "compiler": has_compiler(),
        "nvcc": shutil.which("nvcc") is not None,
        "cpu": cpu_name(),
        "threads": cpu_count(),
    }
    if sizes.on_cpu:
        return found
    card = torch.cuda.get_device_properties(0)
    impls: Callable[[], list[Any]] = getattr(torch.nn.attention, "list_flash_attention_impls", list)
    return {
        "card": card.name,
        "memory_gb": card.total_memory / 1e9,
        "capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "flash_impls": [str(impl) for impl in impls()],
        **found,
    }


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    """As nvidia-smi says; only asked, nothing is set."""
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    return next(iter(done.stdout.split()), None)


def matmul(sizes: Sizes) -> dict[str, Any]:
    """TFLOP/s of square products of random numbers by dtype, and the peak that MFU is a share of."""
    import torch

    from nanochat.machine import peak_flops
    from nanochat.model import ACTIVATION, product, to_float8

    here = sizes.machine()
    side, device = sizes.side, sizes.device
    flops = 2 * side**3
    found: dict[str, Any] = {"side": side, "peak_tflops": peak_flops(here) / 1e12}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        found[f"{name}_tflops"] = flops / seconds_of(partial(torch.matmul, a, b), device) / 1e12
    (a, scale_a), (b, scale_b) = (to_float8(torch.randn(side, side, device=device), ACTIVATION) for _ in range(2))
    b = b.t().contiguous().t()
    try:
        took = seconds_of(lambda: product(a, b, scale_a, scale_b, torch.bfloat16, fast=True), device)
    except (RuntimeError, NotImplementedError) as error:
        found["float8"] = str(error).splitlines()[0]  # the device has no float8 units
    else:
        found["float8_tflops"] = flops / took / 1e12
    return found


def bandwidth(sizes: Sizes) -> float:
    """Bytes a second that a copy inside the device's memory reads and writes, both counted."""
    import torch

    a = torch.randn(sizes.copied // 4, device=sizes.device)
    b = torch.empty_like(a)
    return 2 * sizes.copied / seconds_of(lambda: b.copy_(a), sizes.device)


def host(sizes: Sizes) -> dict[str, Any]:
    """What limits small models and decoding: microseconds to launch an operation on a few numbers, and to read one
    number from the device."""
    import torch

    a = torch.zeros(8, device=sizes.device)
    times = sizes.launches
    launch = seconds_of(lambda: [a.add_(1) for _ in range(times)], sizes.device) / times
    wait = seconds_of(lambda: [a[0].item() for _ in range(times)], sizes.device) / times
    return {"operation_us": launch * 1e6, "wait_us": wait * 1e6}
