"""What a backup costs a training: CPU seconds per GB, slower steps meanwhile, memory.

Checkpoints of one depth are sent to a folder by the process that --backup starts, without a pause between them, beside
a training of a small model on all cores. Beside it:

- thread: the same work in a thread of the training's own process.
- cp, sha256sum: the system's own programs copy the same files and hash the copies, one after the other.

    python -m benchmarks.backup --json result.json
"""

from __future__ import annotations

import os
import queue
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Config:
    depth: int = 8
    """Layers of the model whose checkpoints are sent."""
    gb: float = 3.0
    """GB to send."""
    seconds: float = 20.0
    """Seconds of steps without a backup, before and after."""
    folder: Path | None = None
    """Where to write (default: a temporary folder)."""
    json: Path | None = None
    """Write the results to this file."""


def make_checkpoints(depth: int, gb: float) -> int:
    """Steps of one run with gb GB in all; returns their bytes. Their files share the disk's room."""
    from safetensors.torch import save_file

    from benchmarks import saving
    from nanochat import checkpoint
    from nanochat.metrics import MetricsWriter, training_file
    from nanochat.model import save_weights

    model, optimizer, tokenizer = saving.make(saving.Config(depth=depth))
    MetricsWriter(training_file("base", "bench")).write("settings", seed=0)
    with checkpoint.create("base", "bench", 1) as folder:
        save_weights(model.config, model.state_dict(), folder)
        save_file({k: v.clone() for k, v in optimizer.state_dict().items()}, folder / "optimizer.safetensors")
        tokenizer.save(folder / "tokenizer")
    source = checkpoint.steps("base", "bench")[1]
    manifest = checkpoint.read_manifest(source)
    each = sum(int(facts["size"]) for facts in manifest.files.values())
    count = max(1, round(gb * 1e9 / each))
    for step in range(2, count + 1):
        with checkpoint.create("base", "bench", step, manifest.files) as folder:
            shutil.copytree(source, folder, copy_function=os.link, dirs_exist_ok=True)
            (folder / "manifest.json").unlink()
    return each * count


def stepper() -> Callable[[], float]:
    """A training step of a small model on all cores; it returns its seconds."""
    import torch

    from nanochat.model import GPT, ModelConfig
    from nanochat.optim import Optimizer, Schedule
    from nanochat.scale import Rates

    model = GPT(ModelConfig.from_depth(4, 2048, 128, "modern", "", 0)).init_weights(0)
    optimizer, schedule = Optimizer(model, Rates()), Schedule.pretraining(1000)
    ids = torch.randint(0, 2048, (4, 129))
    done = 0

    def step() -> float:
        nonlocal done
        began = time.perf_counter()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(schedule, done % 900 + 1)
        done += 1
        return time.perf_counter() - began

    for _ in range(3):
        step()
    return step


def steps_while(step: Callable[[], float], goes_on: Callable[[], bool]) -> list[float]:
    times = []
    while goes_on():
        times.append(step())
    return times


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def beside_process(url: str, step: Callable[[], float]) -> tuple[list[float], float, float]:
    """Step times while everything is sent, the CPU seconds and the most memory (bytes) of the process that sends."""
    from nanochat.hub.backup import Order
    from nanochat.hub.beside import Beside
    from nanochat.hub.run_files import Unit

    before = cpu_of_children()
    beside = Beside(url)
    beside.start()
    beside.keep(Order([Unit("base", "bench")]))
    while not beside.status["unsafe"]:
        time.sleep(0.01)
    times = steps_while(step, lambda: bool(beside.status["unsafe"]))
    peaks: list[float] = []
    assert beside._process
    watch = threading.Thread(target=watch_memory, args=(beside._process.pid, peaks))
    watch.start()
    if not beside.finish():
        raise SystemExit("the backup did not come to its end")
    beside._thread.join()
    watch.join()
    return times, cpu_of_children() - before, max(peaks)


def watch_memory(pid: int, peaks: list[float]) -> None:
    """The most memory of a process so far (bytes), until it ends."""
    while True:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        peaks += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
        time.sleep(0.01)


def beside_thread(url: str, step: Callable[[], float]) -> list[float]:
    """Step times while a thread of this process sends everything."""
    from nanochat.hub.backup import Order
    from nanochat.hub.backup_process import work
    from nanochat.hub.run_files import Unit

    inbox: queue.Queue[dict[str, Any]] = queue.Queue()
    inbox.put({"do": "run", **Order([Unit("base", "bench")]).to_dict()})
    inbox.put({"do": "finish"})
    thread = threading.Thread(target=work, args=(url, inbox, lambda message: None, lambda: False))
    thread.start()
    return steps_while(step, thread.is_alive)


def system_programs(source: Path, target: Path) -> float:
    """CPU seconds of cp and sha256sum."""
    before = cpu_of_children()
    for folder in sorted(source.iterdir()):
        subprocess.run(["cp", "-r", str(folder), str(target)], check=True)
        files = [str(path) for path in (target / folder.name).rglob("*") if path.is_file()]
        subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(target / folder.name)
    return cpu_of_children() - before


def run(config: Config) -> None:
    from benchmarks.result import BenchmarkResult, median
    from nanochat import checkpoint
    from nanochat.console import say
    from nanochat.hub.restore import restore
    from nanochat.machine import setup

    setup("cpu", "float32")
    with tempfile.TemporaryDirectory(dir=config.folder) as place:
        base, far, second, new = (Path(place) / name for name in ("base", "far", "second", "new"))
        os.environ["NANOCHAT_BASE_DIR"] = str(base)
        size = make_checkpoints(config.depth, config.gb)
        step = stepper()

        def alone() -> list[float]:
            end = time.perf_counter() + config.seconds
            return steps_while(step, lambda: time.perf_counter() < end)

        quiet = alone()
        times, cpu, peak = beside_process(str(far), step)
        quiet += alone()
        in_thread = beside_thread(str(second), step)
        quiet += alone()
        shutil.rmtree(second)
        second.mkdir()
        programs = system_programs(base / "base_checkpoints" / "bench", second)
        os.environ["NANOCHAT_BASE_DIR"] = str(new)
        restore(str(far))
        sent = {step: checkpoint.read_manifest(folder).files for step, folder in _steps(base).items()}
        equal = {n: checkpoint.read_manifest(folder).files for n, folder in _steps(new).items()} == sent
        whole = all(checkpoint.verify(folder) for folder in _steps(new).values())
    gb = size / 1e9
    ours = {
        "cpu_s_per_gb": cpu / gb,
        "step_ms_alone": 1e3 * median(quiet),
        "step_ms_beside": 1e3 * median(times),
        "slowdown": median(times) / median(quiet),
        "steps_beside": len(times),
        "peak_memory_bytes": peak,
        "bytes": size,
    }
    peers = {
        "thread": {"step_ms_beside": 1e3 * median(in_thread), "slowdown": median(in_thread) / median(quiet)},
        "cp, sha256sum": {"cpu_s_per_gb": programs / gb},
    }
    ratio = {
        "thread": {"speed": median(in_thread) / median(times)},
        "cp, sha256sum": {"cpu": programs / cpu},
    }
    slower = f"{ours['slowdown']:.2f}x while it sends (in a thread {peers['thread']['slowdown']:.2f}x)"
    seconds = f"{ours['cpu_s_per_gb']:.2f} CPU seconds per GB (cp and sha256sum {programs / gb:.2f})"
    say(f"{gb:.2f} GB: {seconds}; steps take {slower}; {peak / 1e6:.0f} MB of memory")
    checks = {"restored bytes equal": equal and whole}
    settings = {"depth": config.depth, "gb": config.gb}
    BenchmarkResult("backup", ours, peers, ratio, checks, settings).conclude(config.json)


def _steps(base: Path) -> dict[int, Path]:
    return {int(path.name.split("_")[1]): path for path in (base / "base_checkpoints/bench").glob("step_*")}


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.backup")
