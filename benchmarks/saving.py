"""What saving a checkpoint costs a training: its pause, CPU time, and how much slower other work gets meanwhile.

Weights and the optimiser's state of one depth, on a CPU, saved in four ways by turns:

- ours: copy into memory, then write, hash and fsync in another thread (train/saving.py).
- foreground: the same files written by the training's own thread, as nanochat did before.
- torch.save: as upstream does: two pickles, no hash, no fsync, no atomic rename.
- DCP: torch.distributed.checkpoint.async_save, torch's own background writer.

    python -m benchmarks.saving --json result.json
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Config:
    depth: int = 12
    """Layers of the model that is saved."""
    vocab: int = 32768
    """Tokens of its tokenizer."""
    seq_len: int = 2048
    """Context in tokens."""
    runs: int = 5
    """Saves of each kind, after one that does not count."""
    folder: Path | None = None
    """Where to write (default: a temporary folder)."""
    json: Path | None = None
    """Write the results to this file."""


@dataclass
class Cost:
    """pause: seconds in which the training cannot go on; seconds: until the checkpoint is on the disk; cpu: of all
    threads; speed: of products in the training's thread while it is written, as a share of their speed without."""

    pause: float
    seconds: float
    cpu: float
    speed: float


def measure(save: Callable[[], Callable[[], bool]], alone: float) -> Cost:
    """Two saves: one beside work, one beside nothing, which shows its own CPU time.

    save: returns when the training could go on; what it returns says whether the checkpoint is written.
    alone: products a second when nothing is saved.
    """
    began = time.perf_counter()
    written, done = save(), 0
    resumed = time.perf_counter()
    while not written():
        product()
        done += 1
    end = time.perf_counter()
    cpu = time.process_time()
    written = save()
    while not written():
        time.sleep(0.01)
    cpu = time.process_time() - cpu
    return Cost(resumed - began, end - began, cpu, done / (end - resumed) / alone if done else 1.0)


def product() -> None:
    import torch

    global _matrix
    if _matrix is None:
        _matrix = torch.randn(768, 768)
    torch.mm(_matrix, _matrix)


_matrix: Any = None


def products_a_second(seconds: float = 2.0) -> float:
    product()
    end, done, began = time.perf_counter() + seconds, 0, time.perf_counter()
    while time.perf_counter() < end:
        product()
        done += 1
    return done / (time.perf_counter() - began)


def make(config: Config) -> tuple[Any, Any, Any]:
    """A model, its optimiser after a step, and a tokenizer."""
    from nanochat.model import GPT, ModelConfig
    from nanochat.optim import Optimizer, Schedule
    from nanochat.scale import Rates
    from nanochat.tokenizer import Tokenizer, train_bpe

    model = GPT(ModelConfig.from_depth(config.depth, config.vocab, config.seq_len, "modern", "", 0)).init_weights(0)
    optimizer = Optimizer(model, Rates(), muon_every=1 << 30)  # no matrix is updated: only the state counts here
    optimizer.step(Schedule.pretraining(10), 1)
    return model, optimizer, Tokenizer(train_bpe(["some text"], 256))


def run(config: Config) -> None:
    from benchmarks.result import BenchmarkResult, median
    from nanochat.console import Progress, say

    with tempfile.TemporaryDirectory(dir=config.folder) as base:
        os.environ["NANOCHAT_BASE_DIR"] = base
        ways, check, sizes = prepare(config, Path(base))
        costs: dict[str, list[Cost]] = {name: [] for name in ways}
        with Progress((config.runs + 1) * len(ways), "saving", "saves") as bar:
            for n in range(config.runs + 1):
                for name, save in ways.items():
                    cost = measure(save, products_a_second())
                    if n:
                        costs[name].append(cost)
                    bar.advance(1, way=name)
        same = check()
    medians = {
        name: {f"{what}_s" if what != "speed" else "speed_meanwhile": median([getattr(c, what) for c in found])
               for what in ("pause", "seconds", "cpu", "speed")}
        for name, found in costs.items()
    }  # fmt: skip
    for name, found in medians.items():
        say(
            f"{name:11} pause {found['pause_s']:7.3f} s   written after {found['seconds_s']:6.2f} s   "
            f"CPU {found['cpu_s']:6.2f} s   speed of other work meanwhile {found['speed_meanwhile']:.0%}"
        )
    ours, peers = medians.pop("ours"), medians
    ratio = {
        name: {"pause": found["pause_s"] / ours["pause_s"], "cpu": found["cpu_s"] / ours["cpu_s"]}
        for name, found in peers.items()
    }
    shorter = ", ".join(f"{found['pause']:.1f}x ({name})" for name, found in ratio.items())
    say(f"checkpoint {sizes / 1e9:.2f} GB; pause shorter by {shorter}")
    settings = {"depth": config.depth, "vocab": config.vocab, "seq_len": config.seq_len}
    BenchmarkResult("saving", {**ours, "checkpoint_bytes": sizes}, peers, ratio, same, settings).conclude(config.json)


def prepare(config: Config, base: Path) -> tuple[dict[str, Callable[[], Callable[[], bool]]], Any, int]:
    """The ways of saving by name, a function that compares what they wrote, and the bytes of a checkpoint."""
    import torch
    import torch.distributed as dist
    from safetensors.torch import load_file, save_file
    from torch.distributed.checkpoint.state_dict_saver import async_save

    from nanochat import checkpoint, machine
    from nanochat.model import save_weights
    from nanochat.train.saving import Saver
    from nanochat.train.state import TrainState

    here = machine.setup("cpu", "float32")
    model, optimizer, tokenizer = make(config)
    state = TrainState("base", "ours", step=0, steps=99)
    saver = Saver(here, model, optimizer, tokenizer, 1, lambda s: set(), begun=0)
    store = dist.HashStore()  # type: ignore[attr-defined]  # there, but not in __all__
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)

    def ours() -> Callable[[], bool]:
        state.step += 1  # a step is saved once
        saver.begin(state)
        return lambda: not saver.busy

    def foreground() -> Callable[[], bool]:
        with checkpoint.create("base", "before", 1) as folder:
            save_weights(model.config, model.state_dict(), folder)
            save_file({k: v.clone() for k, v in optimizer.state_dict().items()}, folder / "optimizer.safetensors")
            tokenizer.save(folder / "tokenizer")
        return lambda: True

    def pickles() -> Callable[[], bool]:
        torch.save(model.state_dict(), base / "model.pt")
        torch.save(optimizer.state_dict(), base / "optim.pt")
        return lambda: True

    def background() -> Callable[[], bool]:
        target = base / "dcp"
        shutil.rmtree(target, ignore_errors=True)
        future = async_save({"model": model.state_dict(), "optim": optimizer.state_dict()}, checkpoint_id=target)
        return future.done  # type: ignore[no-any-return, union-attr]

    def check() -> dict[str, bool]:
        folder = checkpoint.find("base", "ours")
        checkpoint.verify(folder)
        written = load_file(folder / "model.safetensors")
        moments = load_file(folder / "optimizer.safetensors")
        return {
            "weights equal": all(torch.equal(written[k], v) for k, v in model.state_dict().items()),
            "optimiser equal": all(torch.equal(moments[k], v) for k, v in optimizer.state_dict().items()),
        }

    tensors = [*model.state_dict().values(), *optimizer.state_dict().values()]
    size = sum(t.numel() * t.element_size() for t in tensors)
    return {"ours": ours, "foreground": foreground, "torch.save": pickles, "DCP": background}, check, size


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.saving")
