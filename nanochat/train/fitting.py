"""How many sequences a forward pass takes on a GPU, and whether layers are recomputed: what its memory holds.

`python -m nanochat.train.fitting` answers for a training: `memory.predict` must not run in a rank of several, and no
GPU takes part in it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nanochat import scale
from nanochat.console import UserError, say, warn
from nanochat.model.config import ModelConfig

if TYPE_CHECKING:
    from nanochat.machine import Machine
    from nanochat.model import GPT
    from nanochat.train.config import TrainConfig
    from nanochat.train.memory import Memory

USABLE = 0.95  # share of a card's memory for tensors: the rest is CUDA's and fragments
MOST_TOKENS = 65536  # in a pass: more is not faster
# Bytes per token, layer and channel that a GPU keeps for the backward pass (counted in bfloat16, uncompiled), and the
# share of its memory for them: a first guess.
KEPT_BYTES, KEPT_SHARE = 42, 0.6
GROWS = 0.8  # share of a pass that grows with its rows, at least: the loss works in chunks
TRIES = 5  # traces, of some seconds each
PATIENCE = 600.0  # seconds for all of them


@dataclass(frozen=True)
class Fit:
    """rows: sequences in a pass. checkpoints: keep only the layers' inputs. peak: bytes of a step."""

    rows: int
    checkpoints: bool
    memory: Memory
    fits: bool


def fit(
    memory_of: Callable[[int, bool], Memory],
    share: int,
    most: int,
    guess: int,
    usable: float,
    checkpoints: bool = False,
) -> Fit:
    """The most rows that fit, up to `most`; activation checkpoints only if not even one row fits without.

    memory_of: by rows and checkpoints. share: rows of a step on one device. guess: of the answer. usable: bytes.
    """
    for frugal in (True,) if checkpoints else (False, True):
        tried: dict[int, Memory] = {}
        rows = even(share, min(most, guess))
        while rows not in tried and len(tried) < TRIES:
            tried[rows] = memory_of(rows, frugal)
            rows = even(share, min(most, _next(tried, usable)))
        fitting = [rows for rows, memory in tried.items() if memory.peak <= usable]
        if not fitting and 1 not in tried:
            tried[1] = memory_of(1, frugal)
            fitting = [1] if tried[1].peak <= usable else []
        if fitting:
            return Fit(max(fitting), frugal, tried[max(fitting)], True)
    return Fit(1, frugal, tried[1], False)


def _next(tried: dict[int, Memory], usable: float) -> int:
    """Rows that should just fit: between some that do and some that do not, or beyond what was tried."""
    fitting = [rows for rows in tried if tried[rows].peak <= usable]
    others = [rows for rows in tried if tried[rows].peak > usable]
    if fitting and others:
        low, high = max(fitting), min(others)
        share = (usable - tried[low].peak) / (tried[high].peak - tried[low].peak)
        return max(low, min(high - 1, max(low + 1, low + math.floor(share * (high - low)))))
    if others:
        fewest = min(others)
        return max(1, min(fewest - 1, fewest - math.ceil((tried[fewest].peak - usable) / _each(tried, fewest, False))))
    most = max(fitting)
    return most + math.floor((usable - tried[most].peak) / _each(tried, most, True))


def _each(tried: dict[int, Memory], rows: int, fits: bool) -> float:
    """Bytes of one more, by two numbers of rows, or by one, which tells the most that it may be: so a first step is
    rather too large, up, or too small, down."""
    others = [other for other in tried if other != rows]
    if not others:
        return max(1.0, (GROWS if fits else 1.0) * _pass(tried[rows]) / rows)
    nearest = min(others, key=lambda other: abs(other - rows))
    return max(1.0, (_pass(tried[rows]) - _pass(tried[nearest])) / (rows - nearest))


def _pass(memory: Memory) -> int:
    return memory.activations + memory.loss + memory.temporaries


def even(share: int, rows: int) -> int:
    """At most so many rows, such that all passes of a step have equally many, unless that would halve them: compiled
    code is for one size."""
    rows = max(1, min(share, rows))
    divisor = next(d for d in range(rows, 0, -1) if share % d == 0)
    return divisor if 2 * divisor > rows else rows


def guessed(config: ModelConfig, memory: float) -> int:
    """Rows that probably fit."""
    return _power_of_two(_kept_tokens(config.depth, config.width, memory) / config.seq_len)


def _kept_tokens(depth: int, width: int, memory: float) -> float:
    """Tokens of a pass whose layers probably fit."""
    return KEPT_SHARE * memory / (KEPT_BYTES * depth * width)


def _power_of_two(most: float) -> int:
    return 1 << max(0, math.floor(math.log2(max(1.0, most))))


def traced(
    config: ModelConfig,
    batch_tokens: int,
    world: int,
    dtype: str,
    usable: float,
    *,
    most: int = 0,
    fp8: bool = False,
    compiled: bool = True,
    checkpoints: bool = False,
) -> Fit:
    """By traces of the step. most: rows; 0: the default."""
    from nanochat.train.memory import predict

    def memory_of(rows: int, frugal: bool) -> Memory:
        return predict(
            config, rows, world, dtype, batch_tokens=batch_tokens, compiled=compiled, fp8=fp8,
            checkpoint_activations=frugal,
        )  # fmt: skip

    share = max(1, batch_tokens // config.seq_len // world)
    most = most or max(1, MOST_TOKENS // config.seq_len)
    return fit(memory_of, share, most, guessed(config, usable), usable, checkpoints)


def choose_rows(total_rows: int, s: scale.Shape, wanted: int, machine: Machine) -> int:
    """Sequences per forward pass: at most `wanted` (or the default), about the same in all; the last may have fewer."""
    world = machine.ranks.world
    share = total_rows // world
    if share < 1:
        raise UserError(
            f"{world} ranks cannot share {total_rows} sequences a step",
            f"Use at most {total_rows} ranks (NPROC_PER_NODE)",
            f"Give --total_batch_size={world * s.seq_len} or a multiple of it",
        )
    passes = math.ceil(share / (wanted or max(1, round(forward_tokens(s, machine) / s.seq_len))))
    return math.ceil(share / passes)


def forward_tokens(s: scale.Shape, machine: Machine) -> int:
    """Tokens per forward pass. On a GPU a power of two that probably fits its memory. Elsewhere enough that
    products of tokens and a (width, width) matrix keep the cores busy: more would cost memory and hardly be faster."""
    if machine.device.type == "cuda":
        return min(MOST_TOKENS, _power_of_two(_kept_tokens(s.depth, s.width, machine.memory)))
    return max(1024, 2**26 // s.width**2)


def fit_rows(model: GPT, total_rows: int, config: TrainConfig, machine: Machine) -> int:
    """Sequences per forward pass of a training: --device_batch_size, or on a GPU what its memory holds. The model uses
    activation checkpoints from then on if nothing else fits. Every rank calls it."""
    from nanochat.train.equip import compiles
    from nanochat.train.state import shared

    first = choose_rows(total_rows, model.config.shape, config.device_batch_size, machine)
    if config.device_batch_size or machine.device.type != "cuda":
        return first
    question = {
        "config": asdict(model.config),
        "batch_tokens": total_rows * model.config.seq_len,
        "world": machine.ranks.world,
        "dtype": str(machine.dtype).removeprefix("torch."),
        "usable": usable(machine),
        "fp8": config.fp8,
        "compiled": compiles(config.compile, machine),
        "checkpoints": config.checkpoint_activations,
    }
    found = shared(lambda: ask(question))
    if found is None:
        return first
    rows, checkpoints, peak, fits = found
    if checkpoints and not config.checkpoint_activations:
        say("activation checkpoints: without them not even one sequence fits the GPU's memory")
    model.checkpoint_activations = checkpoints
    say(
        f"memory: {rows} x {model.config.seq_len} tokens in a pass need {peak / 1e9:.1f} GB of the "
        f"{machine.memory / 1e9:.1f} GB of a GPU, by a trace of the step"
    )
    if not fits:
        warn("warning: that is more than there is: the training will probably run out of memory")
    return rows


def usable(machine: Machine) -> float:
    """Bytes of the GPU for a training's tensors: other programs may have some of it."""
    import torch

    free, total = torch.cuda.mem_get_info(machine.device)
    return min(USABLE * total, 0.98 * (free + torch.cuda.memory_reserved(machine.device)))


def ask(question: dict[str, Any]) -> tuple[int, bool, int, bool] | None:
    """(rows, checkpoints, peak, fits) from a process of its own; None, with a warning, if that fails."""
    command = [sys.executable, "-m", "nanochat.train.fitting", json.dumps(question)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["it was killed"])[-1])
        rows, checkpoints, peak, fits = json.loads(done.stdout.splitlines()[-1])
    except Exception as error:  # another torch, perhaps: a training then halves its passes until they fit
        warn(f"warning: the memory of a step could not be predicted ({error!s:.200})")
        return None
    return rows, checkpoints, peak, fits


def main() -> None:
    question = json.loads(sys.argv[1])
    config = ModelConfig(**question.pop("config"))
    found = traced(config, **question)
    print(json.dumps([found.rows, found.checkpoints, found.memory.peak, found.fits]))


if __name__ == "__main__":
    main()
