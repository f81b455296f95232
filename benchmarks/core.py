"""CORE: seconds for all tasks, and whether every item is decided as upstream decides it.

Both evaluate the same weights on the same items, each in a fresh process: upstream as its base_eval does (an item at a
time), in its default on CPUs, float32, and in bfloat16. The weights are those of a checkpoint of ours that upstream's
model can hold (scripts.base_train --arch=modern --bigram=0 --window_pattern=L), or made up.

    python -m benchmarks.core --peer ../nanochat --checkpoint FOLDER --json result.json
"""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.result import BenchmarkResult, median
from benchmarks.train import DTYPES, PEER_NAMES, run_ours, run_peer

CONTEXT = 8192  # longer than any prompt: upstream's model cuts nothing


@dataclass
class Config:
    max_per_task: int = 100
    """Items of each task."""
    repeats: int = 1
    """Evaluations of each, in turns."""
    checkpoint: Path | None = None
    """Folder of a checkpoint as above (default: random weights of depth 4, and bytes as tokens)."""
    bundle: Path | None = None
    """The evaluation bundle (default: NANOCHAT_EVAL_BUNDLE)."""
    peer_dtypes: tuple[str, ...] = DTYPES
    """Its default on a CPU, float32, and bfloat16."""
    peer: Path | None = None
    """Checkout of karpathy/nanochat."""
    json: Path | None = None
    """Write the results to this file."""


def core(folder: str, bundle: str, limit: int, dtype: str) -> dict[str, Any]:
    """Our decisions and seconds by task."""
    from benchmarks.tokenizer import peak_mb
    from nanochat.eval.core import evaluate_items, read_items, read_tasks
    from nanochat.machine import setup
    from nanochat.model.weights import load
    from nanochat.tokenizer import Tokenizer

    machine = setup("cpu", dtype)
    model, tokenizer = load(folder, "cpu", machine.dtype), Tokenizer.load(Path(folder) / "tokenizer")
    right, seconds = {}, {}
    for task in read_tasks(Path(bundle)):
        items = read_items(Path(bundle), task, limit)
        began = time.perf_counter()
        right[task.label] = evaluate_items(model, tokenizer, task, items)
        seconds[task.label] = time.perf_counter() - began
    return {"right": right, "seconds": seconds, "peak_mb": peak_mb(), "dtype": str(machine.dtype).split(".")[1]}


def write_model(checkpoint: Path | None, folder: Path) -> list[Any]:
    """The model for both in one folder: ours as a checkpoint, theirs as weights.pt. Returns sizes and tokenizer."""
    import torch

    from nanochat.console import UserError
    from nanochat.model import GPT, ModelConfig
    from nanochat.model.weights import load, save_weights
    from nanochat.scale import shape
    from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer

    if checkpoint:
        model, tokenizer = load(checkpoint), Tokenizer.load(checkpoint / "tokenizer")
        c = model.config
        if not c.modern or c.bigram or set(c.windows) != {"L"}:
            raise UserError(
                f"upstream's model cannot hold {checkpoint}",
                "Train one with --arch=modern --bigram=0 --window_pattern=L",
            )
        model.config = replace(c, seq_len=CONTEXT)
    else:
        tokenizer = Tokenizer({bytes([i]): i for i in range(256)})
        model = GPT(ModelConfig.of(shape(4, tokenizer.vocab_size, CONTEXT), "modern", "L", 0)).init_weights(0)
        g = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=g) * 0.05)
    save_weights(model, folder)
    tokenizer.save(folder / "tokenizer")
    theirs = {}
    for name, tensor in model.state_dict().items():
        for other, mine in PEER_NAMES.items():
            name = re.sub(rf"\b{mine}\b", other, name)
        theirs[name] = tensor
    torch.save(theirs, folder / "weights.pt")
    c = model.config
    ranks = str(folder / "tokenizer/ranks.tiktoken")
    return [[c.depth, c.heads, c.width, c.vocab_size, CONTEXT], [ranks, SPLIT_PATTERN, list(SPECIAL_TOKENS)]]


def main(config: Config) -> None:
    from nanochat.console import UserError
    from nanochat.eval.core import missing_bundle
    from nanochat.paths import eval_bundle_dir

    bundle = config.bundle or eval_bundle_dir()
    if missing := missing_bundle(bundle):
        raise UserError(missing)
    peers = {f"upstream {dtype}": dtype for dtype in config.peer_dtypes} if config.peer else {}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ["ours", "ours float32", *peers]}
    with tempfile.TemporaryDirectory() as folder:
        sizes = write_model(config.checkpoint, Path(folder))
        for _ in range(config.repeats):
            for name, found in runs.items():
                if name in peers:
                    assert config.peer is not None
                    given = [folder, str(bundle), config.max_per_task, *sizes]
                    found.append(run_peer(config.peer, peers[name], "core", *given))
                else:
                    dtype = "auto" if name == "ours" else "float32"
                    call = f"core({folder!r}, {str(bundle)!r}, {config.max_per_task}, {dtype!r})"
                    found.append(run_ours(call, "benchmarks.core"))
                total = sum(found[-1]["seconds"].values())
                print(f"{name:18} {total:7.1f} s  peak {found[-1]['peak_mb']:,.0f} MB", flush=True)
    rows = {name: _row(found) for name, found in runs.items()}
    ours = rows["ours"]
    checks, ratio = {}, {}
    for name, dtype in peers.items():
        mine = runs["ours float32" if dtype == "float32" else "ours"][0]["right"]
        theirs = runs[name][0]["right"]
        differ = {task: sum(a != b for a, b in zip(mine[task], theirs[task], strict=True)) for task in mine}
        if dtype == "float32":
            checks["equal decisions in float32"] = not any(differ.values())
        print(f"decided otherwise than {name}: {sum(differ.values())} of {sum(map(len, mine.values()))} items "
              f"({', '.join(f'{task} {n}' for task, n in differ.items() if n) or 'none'})")  # fmt: skip
        ratio[name] = {
            "speed": rows[name]["seconds"] / ours["seconds"],
            "memory": rows[name]["peak_mb"] / ours["peak_mb"],
        }
        print(f"against {name}: " + ", ".join(f"{k} {v:.2f}x" for k, v in ratio[name].items()))
    settings = {"max_per_task": config.max_per_task, "trained": config.checkpoint is not None}
    others = {name: row for name, row in rows.items() if name != "ours"}
    BenchmarkResult("core", ours, others, ratio, checks, settings).write(config.json)


def _row(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "seconds": median([sum(run["seconds"].values()) for run in found]),
        "peak_mb": median([run["peak_mb"] for run in found]),
        "accuracy": {task: sum(right) / len(right) for task, right in found[0]["right"].items()},
    }


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, main, description=__doc__, prog="python -m benchmarks.core")
