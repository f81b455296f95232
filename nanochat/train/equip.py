"""Decides what a model is trained with: compiled code, float8, activation checkpoints, sparse tables."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from nanochat import scale
from nanochat.console import UserError, say
from nanochat.machine import Machine, has_compiler
from nanochat.model import GPT, Backend, Wanted, choose_attention
from nanochat.optim import Optimizer
from nanochat.train.config import Compile, TrainConfig
from nanochat.train.state import TrainState

LINKING = 5.0  # seconds after which a library that does not grow is not being made


def compiles(mode: Compile, machine: Machine) -> bool:
    """Whether torch.compile is possible and wanted."""
    if mode == "on" and not has_compiler():
        raise UserError("torch.compile needs a C++ compiler, and none is installed", "Install g++", "Use --compile=off")
    wanted = mode == "on" or (mode == "auto" and machine.device.type != "mps" and has_compiler())
    if wanted:
        mend_cache()
    return wanted


def mend_cache() -> None:
    """Delete libraries from torch's cache that a killed compiler left incomplete: torch would load them for ever."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    for path in Path(cache_dir()).rglob("*.so"):
        with suppress(OSError):  # another process may delete it
            # One that another process is just linking is left to it.
            while not _is_library(path) and (young := LINKING - abs(time.time() - path.stat().st_mtime)) > 0:
                time.sleep(young)
            if not _is_library(path):
                path.unlink()


def _is_library(path: Path) -> bool:
    """Whether a shared library is as long as its header says; True for formats other than 64-bit ELF."""
    with open(path, "rb") as f:
        head = f.read(64)
    if len(head) < 64:
        return False
    if head[:6] != b"\x7fELF\x02\x01":
        return head[:4] != bytes(4)
    table, size, count = (*struct.unpack("<Q", head[40:48]), *struct.unpack("<HH", head[58:62]))
    return bool(table) and path.stat().st_size >= table + size * count


def muon_dtype(machine: Machine) -> torch.dtype:
    return torch.bfloat16 if machine.dtype == torch.bfloat16 else torch.float32


def make_optimizer(model: GPT, plan: TrainState, config: TrainConfig, machine: Machine) -> Optimizer:
    """Set the model up for training, and make its optimiser."""
    model.checkpoint_activations = config.checkpoint_activations
    if config.fp8:
        model.use_float8()
    planned = plan.stage != "rl"  # rl's steps may have fewer tokens than planned
    # Only on CPUs, where parts are compiled: a graph of the whole model has no sparse gradients.
    if planned and scale.few_rows(plan.batch_tokens) and machine.device.type == "cpu":
        model.use_sparse_tables()
    return Optimizer(
        model,
        scale.Rates(**plan.rates),
        muon_dtype(machine),
        compiles(config.compile, machine),
        scale.muon_every(plan.batch_tokens) if planned else 1,
    )


def set_attention(model: GPT, wanted: Wanted, machine: Machine) -> None:
    """Choose the model's attention, and say which and why: before anything is compiled."""
    c = model.config
    chosen = choose_attention(machine.device, machine.dtype, c.head_dim, c.kv_heads < c.heads, wanted)
    model.use_attention(cast(Backend, chosen.name))
    say(f"attention: {chosen}")


def make_loss(model: GPT, mode: Compile, machine: Machine) -> Callable[..., Tensor]:
    """`model.loss`, compiled as a whole on a GPU and in parts on a CPU, where compiling takes long."""
    if not compiles(mode, machine):
        if mode == "auto" and not has_compiler():
            say("No C++ compiler found: training without torch.compile (about 1.4x slower)")
        return model.loss
    say("Compiling during the first steps: half a minute or more, unless torch has it cached")
    return compiled_loss(model, machine)


def compiled_loss(
    model: GPT, machine: Machine, compiler: Callable[..., Any] = torch.compile, whole: bool | None = None
) -> Callable[..., Tensor]:
    """`model.loss` through a compiler; whole: None: what suits the machine."""
    if machine.device.type == "cpu" if whole is None else not whole:
        model.compile_parts(compiler)
        return model.loss
    loss: Callable[..., Tensor] = compiler(model.loss, dynamic=False)
    return loss
