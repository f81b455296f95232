"""CORE: seconds for all tasks, peak memory, and the number of items where upstream chooses another answer.

Both evaluate the same weights on the same items, each in a fresh process: upstream as its base_eval does (an item at a
time), in its default on CPUs, float32, and in bfloat16. The weights are those of a checkpoint of ours that upstream's
model can hold (scripts.base_train --arch=modern --bigram=0 --window_pattern=L), or random.

    python -m benchmarks.core --peer ../nanochat --checkpoint FOLDER --json result.json
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.result import BenchmarkResult, median
from benchmarks.train import DTYPES, PEER_NAMES, VOCAB, run_ours, run_peer

if TYPE_CHECKING:
    from nanochat.model import GPT
    from nanochat.tokenizer import Tokenizer

CONTEXT = 8192  # longer than any prompt: upstream's model cuts nothing


@dataclass
class Config:
    max_per_task: int = 100
    """Items of each task."""
    repeats: int = 1
    """Evaluations of each, in turns."""
    checkpoint: Path | None = None
    """Folder of a checkpoint as above (default: random weights of depth 4, and tokens learnt from the bundle)."""
    bundle: Path | None = None
    """The evaluation bundle (default: NANOCHAT_EVAL_BUNDLE)."""
    peer_dtypes: tuple[str, ...] = DTYPES
    """Its default on a CPU, float32, and bfloat16."""
    peer: Path | None = None
    """Checkout of karpathy/nanochat."""
    json: Path | None = None
    """Write the results to this file."""


def core(folder: str, bundle: str, limit: int, dtype: str) -> dict[str, Any]:
    """What we choose, the share that is right, and the seconds, by task."""
    from benchmarks.tokenizer import peak_mb
    from nanochat.eval import evaluate_items, read_questions, read_tasks
    from nanochat.machine import setup
    from nanochat.model import load
    from nanochat.tokenizer import Tokenizer

    machine = setup("cpu", dtype)
    model, tokenizer = load(folder, "cpu", machine.dtype), Tokenizer.load(Path(folder) / "tokenizer")
    chosen, accuracy, seconds = {}, {}, {}
    for task in read_tasks(Path(bundle)):
        began = time.perf_counter()
        questions, _ = read_questions(Path(bundle), task, limit)
        outcomes = evaluate_items(model, tokenizer, task, questions)
        seconds[task.label] = time.perf_counter() - began
        chosen[task.label] = [x.choice for x in outcomes]
        accuracy[task.label] = sum(x.right for x in outcomes) / len(outcomes)
    return {"chosen": chosen, "accuracy": accuracy, "seconds": seconds, "peak_mb": peak_mb()}


def made_up(bundle: Path) -> tuple[GPT, Tokenizer]:
    """A model with only random weights, and a tokenizer that makes prompts as long as a real one does."""
    import torch

    from nanochat.eval import read_tasks
    from nanochat.model import GPT, ModelConfig
    from nanochat.scale import shape
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe

    texts = ((bundle / "eval_data" / task.file).read_text(encoding="utf-8") for task in read_tasks(bundle))
    tokenizer = Tokenizer(train_bpe(texts, VOCAB - len(SPECIAL_TOKENS)))
    model = GPT(ModelConfig.of(shape(4, VOCAB, CONTEXT), "modern", "L", 0)).init_weights(0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.05)
    return model, tokenizer


def write_model(given: Path | None, bundle: Path, base: Path) -> tuple[Path, list[Any]]:
    """A checkpoint under `base` for us, and for upstream with its weights.pt; and upstream's sizes and tokenizer."""
    import torch

    from nanochat import checkpoint
    from nanochat.console import UserError
    from nanochat.model import load, save_weights
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

    model, tokenizer = (load(given), Tokenizer.load(given / "tokenizer")) if given else made_up(bundle)
    c = model.config
    if not c.modern or c.bigram or set(c.windows) != {"L"}:
        raise UserError(
            f"upstream's model cannot hold {given}", "Train one with --arch=modern --bigram=0 --window_pattern=L"
        )
    model.config = replace(c, seq_len=CONTEXT)
    theirs = {}
    for name, tensor in model.state_dict().items():
        for other, mine in PEER_NAMES.items():
            name = re.sub(rf"\b{mine}\b", other, name)
        theirs[name] = tensor
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    with checkpoint.create("base", "core", 0) as folder:
        save_weights(model.config, model.state_dict(), folder)
        tokenizer.save(folder / "tokenizer")
        torch.save(theirs, folder / "weights.pt")
    folder = checkpoint.find("base", "core")
    ranks = str(folder / "tokenizer/ranks.tiktoken")
    sizes = [c.depth, c.heads, c.kv_heads, c.width, c.vocab_size, CONTEXT]
    return folder, [sizes, [ranks, tokenizer.pattern, list(SPECIAL_TOKENS)]]


def main(config: Config) -> None:
    from nanochat.console import UserError
    from nanochat.eval import missing_bundle
    from nanochat.paths import eval_bundle_dir

    bundle = config.bundle or eval_bundle_dir()
    if missing := missing_bundle(bundle):
        raise UserError(missing)
    if config.peer and config.max_per_task <= 10:
        raise UserError("upstream cannot draw ten examples from so few items", "Give --max_per_task=11 or more")
    peers = {f"upstream {dtype}": dtype for dtype in config.peer_dtypes} if config.peer else {}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ["ours", "ours float32", *peers]}
    with tempfile.TemporaryDirectory() as base:
        path, sizes = write_model(config.checkpoint, bundle, Path(base))
        folder = str(path)
        for _ in range(config.repeats):
            for name, found in runs.items():
                if name in peers:
                    assert config.peer is not None
                    chosen = runs["ours float32" if peers[name] == "float32" else "ours"][0]["chosen"]
                    (path / "chosen.json").write_text(json.dumps(chosen))
                    given = [folder, str(bundle), config.max_per_task, *sizes]
                    found.append(run_peer(config.peer, peers[name], "core", *given))
                else:
                    dtype = "auto" if name == "ours" else "float32"
                    call = f"core({folder!r}, {str(bundle)!r}, {config.max_per_task}, {dtype!r})"
                    found.append(run_ours(call, "benchmarks.core"))
                total = sum(found[-1]["seconds"].values())
                print(f"{name:18} {total:7.1f} s  peak {found[-1]['peak_mb']:,.0f} MB", flush=True)
    rows = {name: _row(found) for name, found in runs.items()}
    ours, items = rows["ours"], sum(map(len, runs["ours"][0]["chosen"].values()))
    checks, ratio = {}, {}
    for name, dtype in peers.items():
        differ = {task: len(same) - sum(same) for task, same in runs[name][0]["same"].items()}
        rows[name]["chosen_otherwise"] = sum(differ.values())
        if dtype == "float32":
            checks["equal choices in float32"] = not any(differ.values())
        print(f"choices other than {name}'s: {sum(differ.values())} of {items} items "
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
        **({"accuracy": found[0]["accuracy"]} if "accuracy" in found[0] else {}),
    }


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, main, description=__doc__, prog="python -m benchmarks.core")
