"""Measure how fast a model reads prompts and writes answers on this machine, and what share of the machine that is.

nanochat bench -i sft

nanochat bench --depth=12 --quantize=int8 --json bench.json
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from nanochat.console import Progress, UserError, command, say

if TYPE_CHECKING:
    from nanochat.inference import Engine

DEPTH = 12  # of the random model where there is no checkpoint
MOST = 1024


@dataclass
class Config:
    source: Annotated[Literal["", "base", "mid", "sft", "rl"], tyro.conf.arg(aliases=["-i"])] = ""
    """stage of the checkpoint; empty: the newest of sft, mid, base, or else a random model"""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint, such as d4; default: the one written last"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; default: the newest"""
    depth: int = 0
    """layers of a model with random weights to measure instead; 0: a checkpoint"""
    vocab_size: int = 0
    """tokens of the random model; 0: as many as base_train would give it"""
    batches: str = "1,4,16,32"
    """answers at once, separated by commas"""
    prompt: int = 128
    """tokens of a prompt, at most half of the context"""
    tokens: int = 64
    """tokens of an answer"""
    repeats: int = 3
    """measurements of each, of which the median counts"""
    quantize: Literal["", "int8"] = ""
    """int8: matrices in eight bits, on a CPU (docs/inference.md)"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    dtype: str = "auto"
    """auto, float32, bfloat16, float16"""
    json: Path | None = None
    """file for the results"""


def sizes(batches: str) -> list[int]:
    """The numbers in "1,4,16", each once, in order."""
    try:
        found = [int(number) for number in batches.split(",")]
    except ValueError:
        found = []
    if not found or not all(1 <= number <= MOST for number in found):
        raise UserError(f"--batches is {batches!r}", f"Give numbers from 1 to {MOST}, as in --batches=1,4,16")
    return sorted(set(found))


def run(config: Config) -> None:
    batches = sizes(config.batches)
    for name, least in {"prompt": 1, "tokens": 2, "repeats": 1, "depth": 0, "vocab_size": 0}.items():
        if getattr(config, name) < least:
            raise UserError(f"--{name} is {getattr(config, name)}", f"Give a number of {least} or more")
    named = bool(config.source or config.model_tag or config.step is not None)
    random = next((flag for flag in ("depth", "vocab_size") if getattr(config, flag)), None)
    if named and random:
        raise UserError(f"--{random} is for a random model, the other flags name a checkpoint", f"Leave --{random} out")
    from nanochat.eval import require_writable

    require_writable(config.json)
    engine, subject = open_engine(config, named, max(batches))
    from nanochat.inference.measuring import Meter, table
    from nanochat.machine import describe
    from nanochat.paths import write_json

    meter = Meter(engine, config.quantize, config.prompt, config.tokens, config.repeats)
    model = f"d{engine.model.config.depth} {engine.model.config.arch}, {engine.model.num_params():,} parameters"
    where = f"{describe(meter.machine)}, {engine.runner.name}"
    say(f"{subject} ({model}{', int8' * bool(config.quantize)}) on {where}")
    say(f"memory gives {meter.bandwidth / 1e9:.1f} GB/s, products {meter.peak / 1e9:,.0f} GFLOP/s")
    cut = (meter.prompt, meter.tokens) != (config.prompt, config.tokens)
    lengths = f"prompts of {meter.prompt} tokens, answers of {meter.tokens}"
    say(f"{lengths}{f', cut to the context of {engine.window}' * cut}")
    began, speeds = time.monotonic(), []
    with Progress(len(batches) * config.repeats, "measuring") as bar:
        for rows in batches:
            speeds.append(meter.measure(rows, lambda: bar.advance(1)))
    for line in table(speeds):
        say(line)
    if config.json is not None:
        facts = {
            "machine": describe(meter.machine), "runner": engine.runner.name,
            "bandwidth": meter.bandwidth, "peak": meter.peak,
            "model": subject, **asdict(engine.model.config), "quantize": config.quantize,
            "prompt": meter.prompt, "tokens": meter.tokens, "repeats": config.repeats,
        }  # fmt: skip
        seconds = round(time.monotonic() - began, 3)
        write_json(
            config.json,
            {
                "version": 1,
                "command": "bench",
                **facts,
                "speeds": [asdict(speed) for speed in speeds],
                "seconds": seconds,
            },
        )
        say(f"Results: {config.json}")


def open_engine(config: Config, named: bool, most: int) -> tuple[Engine, str]:
    """The engine to measure, and what to call it. most: answers at once."""
    from nanochat import checkpoint

    stages = [stage for stage in ("sft", "mid", "base") if checkpoint.tags(stage)]
    stage = config.source or (stages[0] if stages else "sft" if named else "")
    if stage and not config.depth and not config.vocab_size:
        from nanochat.inference import load_engine

        where = (stage, config.model_tag, config.step, config.device, config.dtype)
        engine, manifest = load_engine(*where, config.quantize, most)
        return engine, f"{manifest.stage}/{manifest.tag} step {manifest.step}"
    from nanochat.inference.measuring import random_engine
    from nanochat.machine import setup

    machine = setup(config.device, config.dtype)
    if not config.depth and not stage:
        say(f"no checkpoint here, so a random model of depth {DEPTH} is measured; --depth=4 is quicker")
    return random_engine(config.depth or DEPTH, config.vocab_size, machine, most, config.quantize), "random weights"


main = command(Config, run, __doc__)
