"""What a benchmark found, as every benchmark writes it."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanochat.console import say
from nanochat.machine import cpu_count, cpu_name
from nanochat.paths import write_json

VERSION = 1


def machine() -> dict[str, Any]:
    return {"cpu": cpu_name(), "cores": cpu_count(), "system": platform.system(), "python": platform.python_version()}


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def cpu_seconds(pid: int) -> float:
    """Used so far by all threads of a process, on Linux."""
    # Linux's number for the CPU clock of another process, which counts nanoseconds; /proc counts hundredths.
    return time.clock_gettime((~pid << 3) | 2)


@dataclass
class BenchmarkResult:
    """ratio: peer -> metric -> how many times better ours is. checks: that both did the same work."""

    name: str
    ours: dict[str, Any]
    peers: dict[str, dict[str, Any]]
    ratio: dict[str, dict[str, float]]
    checks: dict[str, bool]
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path | None) -> None:
        if path:
            write_json(path, {"version": VERSION, "machine": machine(), **asdict(self)})

    def conclude(self, path: Path | None) -> None:
        """Write it; name the checks that do not hold, and leave with exit code 1 if there are any."""
        self.write(path)
        failed = [name for name, holds in self.checks.items() if not holds]
        for name in failed:
            say(f"  {name}: NO")
        if failed:
            sys.exit(1)
