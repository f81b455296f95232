"""Pretraining: from a depth and a corpus to a base model."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from nanochat import scale
from nanochat.console import UserError, say
from nanochat.dataset.info import load_info
from nanochat.dataset.loader import Loader, TextSource
from nanochat.dataset.shards import Shards
from nanochat.eval.bpb import bits_per_byte, text_batches
from nanochat.machine import Machine, describe, peak_flops, setup
from nanochat.model.config import ModelConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import load
from nanochat.optim import Optimizer, Schedule
from nanochat.paths import tokenizer_dir
from nanochat.tokenizer import Tokenizer
from nanochat.train import state as states
from nanochat.train.config import BaseConfig, check, fingerprint, horizon, parse_duration
from nanochat.train.loop import Job, train
from nanochat.train.state import TrainState

FEWEST_STEPS = 20


def choose_rows(total_rows: int, world: int, seq_len: int, wanted: int, device_type: str) -> int:
    """Sequences per forward pass: the largest divisor of a rank's share that is not above the wish (or the default)."""
    share = total_rows // world
    if share < 1:
        raise UserError(
            f"{world} ranks cannot share {total_rows} sequences a step",
            f"Use at most {total_rows}, or --total_batch_size",
        )
    limit = wanted or max(1, (65536 if device_type == "cuda" else 16384) // seq_len)
    return max(n for n in range(1, min(limit, share) + 1) if share % n == 0)


def for_training(machine: Machine) -> Machine:
    """float16 is refused: without loss scaling, most of its small gradients are zero."""
    if machine.dtype == torch.float16:
        raise UserError("float16 is for inference: training would lose its small gradients", "Use --dtype=float32")
    return machine


def muon_dtype(machine: Machine) -> torch.dtype:
    return torch.bfloat16 if machine.dtype == torch.bfloat16 else torch.float32


def train_base(config: BaseConfig) -> TrainState:
    """Train, save and validate; see BaseConfig."""
    check(config)
    budget = parse_duration(config.time_budget) if config.time_budget else 0.0
    machine = for_training(setup(config.device, config.dtype))
    tokenizer = Tokenizer.load(tokenizer_dir())
    seq_len = config.max_seq_len or scale.default_seq_len(config.depth)
    model_config = ModelConfig.from_depth(config.depth, tokenizer.vocab_size, seq_len)
    tag = config.model_tag or f"d{config.depth}"
    corpus = load_info(config.dataset)
    plan = states.shared(_plan(config, model_config.shape, machine, budget))
    # The same flags over other text or other ids are another run.
    plan = replace(
        plan,
        tag=tag,
        dataset=config.dataset,
        world_seed=corpus.settings.get("world_seed"),
        settings={**fingerprint(config), "tokenizer": tokenizer.hash, "train_bytes": corpus.train_size},
    )
    resumed = states.find_resumable("base", tag, plan.settings, config.resume)
    if resumed:
        plan = states.continued(states.read(resumed), plan)
        say(f"Resuming {resumed} at step {plan.step} of {plan.steps}")
        model = load(resumed, machine.device, machine.dtype).train()
    else:
        model = GPT(model_config, machine.dtype).init_weights(config.seed).to(machine.device)
    optimizer = Optimizer(model, scale.Rates(**plan.rates), muon_dtype(machine))
    if resumed:
        states.load_optimizer(resumed, optimizer)

    total_rows = plan.batch_tokens // seq_len
    rows = choose_rows(total_rows, machine.ranks.world, seq_len, config.device_batch_size, machine.device.type)
    shards = Shards.open(config.dataset, "train")
    loader = Loader(TextSource(shards, tokenizer), seq_len, total_rows, rows, machine.ranks, True, plan.loader)
    eval_tokens = config.eval_tokens or min(10 * plan.batch_tokens, 1 << 24)
    val = Shards.open(config.dataset, "val")

    def validate(m: GPT) -> dict[str, float]:
        batches = text_batches(
            val, tokenizer, batch=rows, seq_len=seq_len, tokens=eval_tokens,
            device=machine.device, rank=machine.ranks.rank, world=machine.ranks.world,
        )  # fmt: skip
        return {"val_bpb": bits_per_byte(m, batches, tokenizer.token_bytes)}

    say(
        f"base: d{config.depth} ({model.num_params():,} parameters, width {model_config.width}, "
        f"vocab {tokenizer.vocab_size:,}, T {seq_len}) on {describe(machine)}"
    )
    say(
        f"base: {plan.steps} steps of {plan.batch_tokens:,} tokens ({rows} x {seq_len} per forward) of {config.dataset}"
    )
    job = Job(machine, config, model, tokenizer, optimizer, loader, plan, Schedule.pretraining, validate, budget)
    return train(job)


def _plan(config: BaseConfig, s: scale.Shape, machine: Machine, budget: float) -> TrainState:
    """Horizon, batch and learning rates before the first step."""
    ratio = config.target_param_data_ratio
    if config.num_iterations > 0 and config.total_batch_size > 0:
        n_tokens = config.num_iterations * config.total_batch_size
    elif config.target_flops > 0:
        n_tokens = int(config.target_flops / s.flops_per_token)
    elif budget:
        n_tokens = int(budget * 0.5 * peak_flops(machine) * machine.ranks.world / s.flops_per_token)
    else:
        n_tokens = scale.tokens(s, ratio)
    whole = s.seq_len * machine.ranks.world  # a batch is some sequences on every rank
    if config.total_batch_size > 0:
        batch = config.total_batch_size
        if batch % whole:
            raise UserError(
                f"a batch of {batch} tokens is no multiple of {machine.ranks.world} x {s.seq_len} (ranks x context)",
                f"Use --total_batch_size={max(1, batch // whole) * whole}",
            )
    else:
        batch = max(1, round(scale.batch_tokens(s, n_tokens, ratio) / whole)) * whole
    steps = config.num_iterations if config.num_iterations > 0 else max(FEWEST_STEPS, n_tokens // batch)
    rates = scale.rates(s, batch, steps * batch, ratio)
    given = {
        "embedding": config.embedding_lr,
        "head": config.unembedding_lr,
        "matrix": config.matrix_lr,
        "weight_decay": config.weight_decay,
    }
    rates = replace(rates, **{k: v for k, v in given.items() if v >= 0})
    return TrainState(
        "base",
        "",
        steps=steps,
        batch_tokens=batch,
        rates=asdict(rates),
        horizon=horizon(config),
    )
