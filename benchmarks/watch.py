"""What watching a training costs: CPU seconds a minute of `nanochat watch`, of its page's server and of --plain.

The run is 1,000 steps old and takes two steps a second. An open page is a client that asks for what the page asks for,
as often: what a browser works is not in it. Linux alone, since processes' CPU clocks are read.

    python -m benchmarks.watch --json result.json
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

OLD = 1000  # steps before the measurement
PER_SECOND = 2
EVERY = 2.0  # seconds between two looks, as `nanochat watch` has it
RUN = "base-d4"


@dataclass
class Config:
    seconds: float = 60.0
    """How long both are measured, at once."""
    json: Path | None = None
    """Write the results to this file."""


def run(config: Config) -> None:
    from nanochat.console import UserError, say

    if not config.seconds > 0:
        raise UserError(f"--seconds is {config.seconds:g}", "Give a number above 0")
    if sys.platform != "linux":
        raise UserError("CPU clocks of other processes are read on Linux alone", "Run it there")
    from benchmarks.result import BenchmarkResult, cpu_seconds

    with tempfile.TemporaryDirectory() as base:
        os.environ["NANOCHAT_BASE_DIR"] = base
        training = Training()
        training.go_on(OLD)
        watch = [sys.executable, "-m", "nanochat", "watch", RUN]
        page = subprocess.Popen([*watch, "--port=0"], stdout=subprocess.PIPE, text=True)
        plain = subprocess.Popen([*watch, "--plain"], stdout=subprocess.DEVNULL)
        try:
            assert page.stdout is not None
            address = re.search(r"http://[^/\s]+", page.stdout.readline())
            if address is None:
                raise RuntimeError("nanochat watch did not start")
            client = Client(address.group())
            watched(training, client, 3 * EVERY)  # what is done once is done
            pids = [page.pid, plain.pid]
            before = [cpu_seconds(pid) for pid in pids]
            began = time.monotonic()
            watched(training, client, config.seconds)
            minutes = (time.monotonic() - began) / 60
            used = [cpu_seconds(pid) - was for pid, was in zip(pids, before, strict=True)]
        finally:
            for process in (page, plain):
                process.kill()
                process.wait()
    ours = {"page_cpu_s_per_minute": used[0] / minutes, "plain_cpu_s_per_minute": used[1] / minutes}
    say(", ".join(f"{name} {value:.3g}" for name, value in ours.items()))
    checks = {"the page was told of every step": client.steps == training.step}
    BenchmarkResult("watch", ours, {}, {}, checks, {"seconds": config.seconds}).conclude(config.json)


class Training:
    """Writes what a training writes."""

    def __init__(self) -> None:
        from nanochat.metrics import MetricsWriter, training_file

        self.step = 0
        self.writer = MetricsWriter(training_file("base", "d4"))
        self.writer.write("settings", stage="base", tag="d4", steps=1_000_000)

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            loss, seconds = 2 + 5 / (1 + self.step / 30), self.step / PER_SECOND
            values = {"tokens": self.step * 4096, "seconds": seconds, "tok_per_s": 8000.0, "lr": 1.0, "mfu": 0.5}
            self.writer.write("step", step=self.step, loss=loss, **values)


class Client:
    """Asks as the page does: for the list of runs, and for what is new of one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.known: dict[str, int] = {}
        self.steps = 0

    def look(self) -> None:
        self._get("/train/runs")
        query = "&".join(f"{name}={value}" for name, value in self.known.items())
        told = self._get(f"/train/runs/{RUN}?{query}")
        points = told["points"]
        have = points["first"] + len(points["columns"]["loss"])
        self.known = {"generation": points["generation"], "stride": points["stride"], "have": have}
        self.steps = told["status"]["step"]

    def _get(self, path: str) -> Any:
        with urlopen(self.address + path, timeout=30) as answer:
            return json.load(answer)


def watched(training: Training, client: Client, seconds: float) -> None:
    """So many seconds of a training that is looked at."""
    began = time.monotonic()
    for tick in range(1, max(1, round(seconds * PER_SECOND)) + 1):
        training.go_on(1)
        time.sleep(max(0.0, began + tick / PER_SECOND - time.monotonic()))
        if tick % round(EVERY * PER_SECOND) == 0:
            client.look()
    client.look()


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.watch")
