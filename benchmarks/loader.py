"""The loader's speed and costs: tokens a second, wait in a training step, tokens cropped, peak memory.

It reads parquet shards, tokenises and packs. Each row is measured in a fresh process:

- one core: the process may use one core only.
- all cores: the process may use all cores of this machine.
- a rank of 8: on one core, as the first of eight ranks, each of which reads all the text and tokenises its eighth. This
  gives the cores that eight H100s need to train a GPT-2-sized model at 1.2 million tokens a second together.
- training: the real training loop on this machine's CPU; how long a step waited for its batch.

    python -m benchmarks.loader --json result.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

H100S_TOKENS = 1_200_000  # a second, eight of them
NAME = "benchmark"


@dataclass
class Config:
    seq_len: int = 2048
    """Length of a row in tokens."""
    mtokens: float = 12
    """Million tokens to load in each measurement."""
    vocab: int = 32768
    """Tokens of the tokenizer, which learns them on this text."""
    depth: int = 4
    """Layers of the model that is trained."""
    steps: int = 10
    """Steps to train; 0: leave the training out."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile in the training"""
    data: Path | None = None
    """Folder of parquet shards (default: local/debian-english under NANOCHAT_HUB_DIR)."""
    json: Path | None = None
    """Write the results to this file."""


def prepare(config: Config) -> None:
    """Register the shards under this process's base dir and learn a tokenizer there."""
    from benchmarks.packing import first_texts
    from nanochat import corpus
    from nanochat.paths import tokenizer_dir
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe

    folder = config.data or Path(os.environ.get("NANOCHAT_HUB_DIR", "")) / "local/debian-english"
    texts = first_texts(folder, 20)
    corpus.prepare(str(folder), name=NAME)
    Tokenizer(train_bpe(texts, config.vocab - len(SPECIAL_TOKENS))).save(tokenizer_dir())


def load(seq_len: int, tokens: int, world: int, one_core: bool) -> dict[str, Any]:
    """Load `tokens` tokens as the first of `world` ranks, and do nothing with them."""
    if one_core and hasattr(os, "sched_setaffinity"):  # macOS has no such thing: there, all threads count
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from benchmarks.tokenizer import peak_mb
    from nanochat.corpus import Shards
    from nanochat.feed import AHEAD, Loader, TextSource
    from nanochat.machine import Ranks
    from nanochat.paths import tokenizer_dir
    from nanochat.tokenizer import Tokenizer

    source = TextSource(Shards.open(NAME, "train"), Tokenizer.load(tokenizer_dir()))
    rows = 8  # per step and rank
    before = peak_mb()
    began = time.perf_counter()
    steps = iter(Loader(source, seq_len, rows * world, rows, Ranks(world=world), True))
    for _ in range(AHEAD + 2):
        next(steps)
    first = time.perf_counter() - began
    count = max(1, tokens // (rows * seq_len))
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        state = next(steps).state
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    loaded = count * rows * seq_len
    return {
        "tokens_per_s": loaded / seconds,
        "tokens_per_cpu_s": loaded / cpu,
        "first_steps_s": first,
        "peak_mb": peak_mb(),
        "peak_mb_before": before,
        "state_bytes": len(json.dumps(state)),
    }


def train(depth: int, steps: int, compile: Literal["auto", "on", "off"]) -> dict[str, Any]:
    """Train as `scripts.base_train` does; what its metrics say of every step after the first one, which compiles."""
    from benchmarks.result import median
    from benchmarks.tokenizer import peak_mb
    from nanochat.metrics import read_metrics, training_file
    from nanochat.train import BaseConfig, train_base

    train_base(
        BaseConfig(
            depth=depth,
            dataset=NAME,
            num_iterations=steps + 1,
            device="cpu",
            compile=compile,
            eval_every=-1,
            eval_tokens=4096,
            save_every=-1,
        )
    )
    rows = read_metrics(training_file("base", f"d{depth}"))
    unit = next(row["batch_tokens"] for row in rows if row["kind"] == "settings")
    timed = [row for row in rows if row["kind"] == "step"][1:]
    took = [unit / row["tok_per_s"] for row in timed]
    waited = [row["waited"] for row in timed]
    return {
        "step_s": median(took),
        "tokens_per_step": unit,
        "wait_ms": 1e3 * median(waited),
        "wait_ms_longest": 1e3 * max(waited),
        "wait_share": sum(waited) / sum(took),
        "peak_mb": peak_mb(),
    }


def fresh(call: str, base: str) -> Any:
    """The value of `call` in a fresh process."""
    imports = "from benchmarks.loader import load, train; from benchmarks.packing import pack_ours"
    code = f"import json; {imports}; print(json.dumps({call}))"
    environment = {**os.environ, "NANOCHAT_BASE_DIR": base}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def run(config: Config) -> None:
    from benchmarks import packing
    from benchmarks.result import BenchmarkResult
    from nanochat.console import say

    tokens = int(config.mtokens * 1e6)
    with tempfile.TemporaryDirectory() as base:
        os.environ["NANOCHAT_BASE_DIR"] = base
        prepare(config)
        found: dict[str, Any] = {
            "one core": fresh(f"load({config.seq_len}, {tokens}, 1, True)", base),
            "all cores": fresh(f"load({config.seq_len}, {tokens}, 1, False)", base),
            "a rank of 8": fresh(f"load({config.seq_len}, {tokens // 8}, 8, True)", base),
        }
        for name, row in found.items():
            say(
                f"{name:<12} {row['tokens_per_s']:12,.0f} tokens/s {row['tokens_per_cpu_s']:12,.0f} a CPU second  "
                f"peak {row['peak_mb']:,.0f} MB ({row['peak_mb_before']:,.0f} before)  "
                f"state {row['state_bytes']:,} bytes"
            )
        cores = H100S_TOKENS / found["a rank of 8"]["tokens_per_cpu_s"]
        found["cores_for_8_h100s"] = cores
        say(f"eight H100s at {H100S_TOKENS:,} tokens/s need {cores:.2f} cores")
        file = Path(base) / "documents.npy"
        packing.save_documents(packing.Config(mb=config.mtokens * 4, vocab=config.vocab, data=config.data), file)
        shares = fresh(f"pack_ours({str(file)!r}, {config.seq_len})", base)
        found |= {name: shares[name] for name in ("cropped", "repeated", "without_beginning")}
        say(
            f"T={config.seq_len}: {found['cropped']:.2%} of the tokens cropped, {found['repeated']:.2%} repeated, "
            f"{found['without_beginning']:.2%} without their document's beginning"
        )
        checks = {"nothing is cropped": found["cropped"] == 0}
        if config.steps:
            row = found["training"] = fresh(f"train({config.depth}, {config.steps}, {config.compile!r})", base)
            checks["a step waits for less than 1% of its time"] = row["wait_share"] < 0.01
            say(
                f"d{config.depth} training: step {row['step_s']:.2f} s, wait {row['wait_ms']:.2f} ms "
                f"(longest {row['wait_ms_longest']:.2f} ms), {row['wait_share']:.3%} of the time, "
                f"peak {row['peak_mb']:,.0f} MB"
            )
    settings = {"seq_len": config.seq_len, "tokens": tokens, "vocab": config.vocab, "depth": config.depth}
    BenchmarkResult("loader", found, {}, {}, checks, settings).write(config.json)
    for name, holds in checks.items():
        say(f"  {name}: {'yes' if holds else 'NO'}")
    if not all(checks.values()):
        sys.exit(1)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.loader")
