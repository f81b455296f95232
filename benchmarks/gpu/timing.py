"""Seconds that work on a device takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def wait_for(device: str) -> None:
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: str, repeats: int = 5, calls: int = 10) -> float:
    """Of one call: the median over `repeats` of the mean over `calls`, after one call that does not count."""
    work()
    found = []
    for _ in range(repeats):
        wait_for(device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait_for(device)
        found.append((time.perf_counter() - began) / calls)
    return statistics.median(found)
