"""What the pieces of pretraining are worth: trainings of equal time, each without one of them.

First the speed of each is measured, in turns on an otherwise idle machine with a warm compile cache; then each trains
for as many steps as fit in the time at that speed. So the trainings themselves may run beside other work, and on any
number of threads. The spread over seeds shows which differences matter (seeds of the weights: the order of the text
stays the same).

    python -m benchmarks.ablation --minutes 3 --seeds 3 --json result.json
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import train
from benchmarks.result import BenchmarkResult, median


def no_value_embeddings() -> None:
    from nanochat.model import ModelConfig

    # The model has no setting for this, and no user needs one.
    ModelConfig.has_value_embedding = lambda self, layer: False  # type: ignore[method-assign]


def muon_in_every_step() -> None:
    from nanochat import scale

    scale.muon_every = lambda batch: 1


def rates_by_the_square_root() -> None:
    """Learning rates as at large batches."""
    from nanochat import scale

    every, few = scale.muon_every(scale.SMALL_BATCH), scale.few_rows(scale.SMALL_BATCH)
    short = scale.short_share
    scale.SMALL_BATCH = 0
    scale.muon_every, scale.few_rows = lambda batch: every, lambda batch: few
    scale.short_share = lambda batch, seq_len: short(0, seq_len)


def whole_sequences() -> None:
    from nanochat import scale

    scale.short_share = lambda batch, seq_len: 0.0


def tables_by_adamw() -> None:
    from nanochat import scale

    scale.few_rows = lambda batch: False


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
    "short sequences first": whole_sequences,
    "tables row by row": tables_by_adamw,
    "attention in blocks": torch_attention,
}


@dataclass
class Config:
    minutes: float = 3.0
    """Time of each training."""
    seeds: int = 3
    """Trainings of each kind."""
    repeats: int = 3
    """Measurements of each kind's speed."""
    keep: Path | None = None
    """Folder for finished measurements and trainings, which are taken from there the next time."""
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
    keep = config.keep or arena.base
    keep.mkdir(parents=True, exist_ok=True)
    names = ("", *config.pieces)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    try:
        pilots = _pilots(names, config, keep)
        for seed in range(config.seeds):
            for name in names:
                runs[name].append(_run(name, seed, pilots[name], config, keep))
                _show(name, runs[name], runs[""])
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


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name) or "everything"


def _kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        path.write_text(json.dumps(make()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _pilots(names: Sequence[str], config: Config, keep: Path) -> dict[str, dict[str, Any]]:
    """By name: the depth and batch that the dial chooses for the time, and the median speed of the repeats, in which
    the names take turns."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(config.repeats):
        for name in names:
            path = keep / f"{_slug(name)}-{config.minutes:g}m-pilot{turn}.json"
            found[name].append(_kept(path, partial(_pilot, name, config, cold=turn == 0)))
    return {
        name: {**of_name[0], "tok_per_s": median([pilot["tok_per_s"] for pilot in of_name])}
        for name, of_name in found.items()
    }


def _pilot(name: str, config: Config, cold: bool) -> dict[str, Any]:
    """Train for a quarter of a minute; cold: after a first run that compiles."""
    given = [f"--time_budget={round(60 * config.minutes)}s", "--eval_tokens=4096", "--max_hours=0.004"]
    if cold:
        _train(name, *given)
    rows = _train(name, *given)
    speeds = [row["tok_per_s"] for row in rows if row["kind"] == "step"]
    return {
        "tok_per_s": median(speeds[len(speeds) // 4 :]),
        "depth": rows[0]["model"]["depth"],
        "batch_tokens": rows[0]["batch_tokens"],
    }


def _run(name: str, seed: int, pilot: dict[str, Any], config: Config, keep: Path) -> dict[str, Any]:
    """The training of one seed: as many steps as the time holds at the pilot's speed."""
    batch = pilot["batch_tokens"]
    steps = int(60 * config.minutes * pilot["tok_per_s"] / batch)
    given = [f"--depth={pilot['depth']}", f"--total_batch_size={batch}", f"--num_iterations={steps}"]

    def train_it() -> dict[str, Any]:
        rows = _train(name, *given, f"--seed={seed}", f"--eval_tokens={config.eval_tokens}")
        return {**pilot, "val_bpb": rows[-1]["val_bpb"], "tokens": steps * batch}

    return _kept(keep / f"{_slug(name)}-{config.minutes:g}m-seed{seed}.json", train_it)


def _train(without: str, *given: str) -> list[dict[str, Any]]:
    """Train, and return the lines of the metrics."""
    from nanochat.metrics import read_metrics, training_file

    script = ["-m", "benchmarks.ablation", "--train", without] if without in PIECES else ["-m", "scripts.base_train"]
    flags = [f"--dataset={train.NAME}", "--model_tag=ablation", "--eval_every=-1", "--save_every=-1"]
    path = training_file("base", "ablation")
    path.unlink(missing_ok=True)  # or old metrics would pass for those of a training that did not start
    # A pilot ends at its limit with exit code 2, as after mistakes: only its metrics count.
    subprocess.run([sys.executable, *script, *FLAGS.get(without, []), *flags, *given], stdout=subprocess.DEVNULL)
    return read_metrics(path)


def _row(found: list[dict[str, Any]]) -> dict[str, Any]:
    bpb = [run["val_bpb"] for run in found]
    return {
        "bpb": median(bpb),
        "least": min(bpb),
        "most": max(bpb),
        "tok_per_s": median([run["tok_per_s"] for run in found]),
        "depth": found[0]["depth"],
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
