"""What the pieces of pretraining are worth: trainings of equal wall-clock, each without one of them.

Everything else is as the dial says for that time on this machine, and the compile cache is warm. The spread over seeds
says which differences mean something (seeds of the weights: the text comes in the same order).

    python -m benchmarks.ablation --minutes 3 --seeds 3 --json result.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import train
from benchmarks.result import BenchmarkResult, median


def no_value_embeddings() -> None:
    from nanochat.model.config import ModelConfig

    # No setting of the model, and none that a user needs.
    ModelConfig.has_value_embedding = lambda self, layer: False  # type: ignore[method-assign]


def muon_in_every_step() -> None:
    from nanochat import scale

    scale.muon_every = lambda batch: 1


def rates_by_the_square_root() -> None:
    """As at large batches."""
    from nanochat import scale

    every = scale.muon_every(scale.SMALL_BATCH)
    scale.SMALL_BATCH = 0
    scale.muon_every = lambda batch: every


def torch_attention() -> None:
    from nanochat.model import attention

    attention.LONGEST = 0  # scaled_dot_product_attention


FLAGS = {
    "bfloat16": ["--dtype=float32"],
    "compiling": ["--compile=off"],
    "the modern model": ["--arch=classic"],
    "the table of pairs": ["--bigram=0"],
    "the dial's depth": ["--depth=4"],
    "small batches": ["--total_batch_size=16384"],
}
PIECES: dict[str, Callable[[], None]] = {
    "value embeddings": no_value_embeddings,
    "Muon in turns": muon_in_every_step,
    "rates for small batches": rates_by_the_square_root,
    "attention in blocks": torch_attention,
}


@dataclass
class Config:
    minutes: float = 3.0
    """Wall-clock of each training."""
    seeds: int = 3
    """Trainings of each kind."""
    pieces: tuple[str, ...] = (*FLAGS, *PIECES)
    """What to take out, one at a time."""
    eval_tokens: int = 262144
    """Validation tokens."""
    data: Path | None = None
    """Folder of parquet shards (default: local/debian-english under NANOCHAT_HUB_DIR)."""
    json: Path | None = None
    """Write the results to this file."""


def main(config: Config) -> None:
    from nanochat.console import UserError

    unknown = set(config.pieces) - {*FLAGS, *PIECES}
    if unknown:
        raise UserError(f"unknown pieces: {', '.join(sorted(unknown))}", f"Choose from {', '.join((*FLAGS, *PIECES))}")
    arena = train.Arena(train.Config(eval_tokens=config.eval_tokens, data=config.data))
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("", *config.pieces)}
    try:
        for seed in range(config.seeds):
            for name, found in runs.items():
                if not found:  # stops after a few steps, when all is compiled
                    _train(name, config.minutes, seed, 4096, "--max_hours=0.004")
                found.append(_train(name, config.minutes, seed, config.eval_tokens))
                _show(name, found, runs[""])
    finally:
        arena.close()
    rows = {name or "everything": _row(found) for name, found in runs.items()}
    ours = rows.pop("everything")
    ratio = {
        name: {"bpb": row["bpb"] / ours["bpb"], "speed": ours["tok_per_s"] / row["tok_per_s"]}
        for name, row in rows.items()
    }
    settings = {"minutes": config.minutes, "seeds": config.seeds, "eval_tokens": config.eval_tokens}
    BenchmarkResult("ablation", ours, rows, ratio, {}, settings).write(config.json)


def _train(without: str, minutes: float, seed: int, eval_tokens: int, limit: str = "") -> dict[str, Any]:
    from nanochat.metrics import read_metrics
    from nanochat.paths import runs_dir

    script = ["-m", "benchmarks.ablation", "--train", without] if without in PIECES else ["-m", "scripts.base_train"]
    given = [*FLAGS.get(without, []), f"--seed={seed}", f"--eval_tokens={eval_tokens}", *([limit] if limit else [])]
    train.train_ours("ablation", minutes, [*script, *given], finish=not limit)
    rows = read_metrics(runs_dir("base_train") / "metrics.jsonl")
    return {**rows[0], **rows[-1]}


def _row(found: list[dict[str, Any]]) -> dict[str, Any]:
    bpb = [run["val_bpb"] for run in found]
    return {
        "bpb": median(bpb),
        "least": min(bpb),
        "most": max(bpb),
        "tok_per_s": median([run["tok_per_s"] for run in found]),
        "depth": found[0]["model"]["depth"],
        "batch_tokens": found[0]["batch_tokens"],
    }


def _show(name: str, found: list[dict[str, Any]], whole: list[dict[str, Any]]) -> None:
    row, title = _row(found), f"without {name}" if name else "everything"
    print(
        f"{title:32} bpb {row['bpb']:.4f} ({row['least']:.4f} to {row['most']:.4f}, "
        f"{row['bpb'] / _row(whole)['bpb'] - 1:+.1%})  {row['tok_per_s']:,.0f} tok/s  depth {row['depth']}",
        flush=True,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:  # a training without a piece: base_train's own flags follow
        PIECES[sys.argv[2]]()
        sys.argv[1:] = sys.argv[3:]
        from nanochat.commands.base_train import main as base_train

        base_train()
    else:
        from nanochat.console import run_command

        run_command(Config, main, description=__doc__, prog="python -m benchmarks.ablation")
