"""Decides what a model is trained with: compiled code, float8, activation checkpoints, sparse tables."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nanochat import scale
from nanochat.console import UserError, say
from nanochat.machine import Machine, has_compiler
from nanochat.model import GPT
from nanochat.optim import Optimizer
from nanochat.train.config import Compile, TrainConfig
from nanochat.train.state import TrainState


def compiles(mode: Compile, machine: Machine) -> bool:
    """Whether torch.compile is possible and wanted."""
    if mode == "on" and not has_compiler():
        raise UserError("torch.compile needs a C++ compiler, and none is installed", "Install g++", "Use --compile=off")
    return mode == "on" or (mode == "auto" and machine.device.type != "mps" and has_compiler())


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


def make_loss(model: GPT, mode: Compile, machine: Machine) -> Callable[..., Tensor]:
    """`model.loss`, compiled as a whole on a GPU and in parts on a CPU, where compiling takes long."""
    if not compiles(mode, machine):
        if mode == "auto" and not has_compiler():
            say("No C++ compiler found: training without torch.compile (about 1.4x slower)")
        return model.loss
    say("Compiling during the first steps: half a minute or more, unless torch has it cached")
    if machine.device.type == "cpu":
        model.compile_parts()
        return model.loss
    return torch.compile(model.loss, dynamic=False)
