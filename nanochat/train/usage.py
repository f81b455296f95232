"""What a step used: its share of the peak FLOP/s, and memory. Nothing here waits for a GPU."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import torch

from nanochat.machine import Machine, peak_flops

STATM = Path("/proc/self/statm")


class Usage:
    """flops: of one token in a step; 0: not known, so that no share is told. It measures an unknown device's peak. fp8:
    whether the peak is that of float8, though attention and some small products are not in it."""

    def __init__(self, machine: Machine, flops: int, fp8: bool = False) -> None:
        self.device, self.flops = machine.device, flops
        devices = [machine.device] if machine.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # the measurement draws numbers, and a run's must stay the same
            self.peak = peak_flops(machine, fp8) * machine.ranks.world if flops else 0.0
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def step(self, tok_per_s: float) -> dict[str, float]:
        """Of the step that has just ended. mfu: share of all devices' peak. memory: bytes, of this rank: the most that
        tensors took on its GPU since the last step; without one, what the process has in main memory."""
        share = {"mfu": tok_per_s * self.flops / self.peak} if self.peak else {}
        return {**share, "memory": self._memory()}

    def _memory(self) -> int:
        if self.device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            return most
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory()
        try:
            return int(STATM.read_bytes().split()[1]) * resource.getpagesize()
        except OSError:  # macOS, which tells only the most so far
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return most * (1 if sys.platform == "darwin" else 1024)
