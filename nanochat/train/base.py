"""Pretraining: from a depth and a corpus to a base model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from nanochat import scale
from nanochat.console import UserError, is_main_rank, say, warn
from nanochat.corpus import CorpusInfo, Shards, load_info
from nanochat.eval import count_bits, text_batches
from nanochat.feed import Loader, TextSource
from nanochat.machine import Machine, describe, peak_flops, setup
from nanochat.model import GPT, ModelConfig, load, require_float8, require_vocabulary
from nanochat.optim import Schedule
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer, measure_compression
from nanochat.train import state as states
from nanochat.train.config import BaseConfig, check_config, fingerprint, horizon, parse_duration
from nanochat.train.equip import make_loss, make_optimizer, set_attention
from nanochat.train.run import Run
from nanochat.train.saving import require_one_folder
from nanochat.train.state import TrainState
from nanochat.train.supervised import Supervised
from nanochat.train.tuning import suited

FEWEST_STEPS = 20
SAMPLE = 200  # documents from which bytes per token are estimated
MOST_PASSES = 4  # passes that teach nearly as much as new text would (https://arxiv.org/abs/2305.16264)
DEPTH = 20  # the default, as in the original


def train_base(config: BaseConfig, begun: Callable[[TrainState], None] = lambda state: None) -> TrainState:
    """Train, save and validate; see BaseConfig. begun: called when the run begins."""
    check_config(config)
    budget = parse_duration(config.time_budget) if config.time_budget else 0.0
    machine = setup(config.device, config.dtype, config.deterministic)
    require_one_folder(checkpoints_dir("base"), machine.ranks)
    corpus = states.shared(lambda: load_info(config.dataset))
    tokenizer = Tokenizer.load(tokenizer_dir())
    # The same flags with another text or tokenizer make another run.
    settings = {**fingerprint(config), "tokenizer": tokenizer.hash, "train_bytes": corpus.train_size}
    del settings["depth"]
    depth = config.depth or states.shared(lambda: _depth(config, settings, tokenizer.vocab_size, machine, budget))
    seq_len = config.max_seq_len or scale.default_seq_len(depth)
    model_config = ModelConfig.from_depth(
        depth, tokenizer.vocab_size, seq_len, config.arch, config.window_pattern.upper(), config.bigram
    )
    if config.fp8:
        require_float8(machine.device, seq_len)
    tag = config.model_tag or f"d{depth}"
    val = Shards.of(corpus, "val")
    len(val)  # waits for its last shard now, before training, not in the first validation
    plan = states.shared(lambda: make_plan(config, model_config, machine, budget))
    plan = replace(
        plan,
        tag=tag,
        dataset=config.dataset,
        world_seed=corpus.settings.get("world_seed"),
        settings={**settings, "depth": depth},
        dialled=not config.depth,
    )
    with states.alone("base", tag):
        resumed = states.find_resumable(plan, config)
        if resumed:
            plan = states.continued(states.read(resumed), plan, config)
            say(f"Resuming {resumed} at step {plan.step} of {plan.steps}")
            model = load(resumed, machine.device, machine.dtype).train()
            require_vocabulary(model.config, tokenizer.vocab_size, resumed)
        else:
            model = GPT(model_config, machine.dtype).init_weights(config.seed).to(machine.device)
        set_attention(model, config.attention, machine)
        optimizer = make_optimizer(model, plan, config, machine)
        if resumed:
            states.load_optimizer(resumed, optimizer)

        total_rows = plan.batch_tokens // seq_len
        loss = make_loss(model, config.compile, machine)
        plan, rows = suited(plan, model, loss, optimizer, total_rows, config, machine)
        source = TextSource(Shards.of(corpus, "train"), tokenizer)
        loader = Loader(
            source,
            seq_len,
            total_rows,
            rows,
            machine.ranks,
            True,
            plan.loader,
            machine.device.type == "cuda",
            plan.short,
        )
        eval_tokens = config.eval_tokens or min(10 * plan.batch_tokens, 1 << 24)

        def validate(m: GPT, on_batch: Callable[[int], None]) -> tuple[float, float]:
            batches = text_batches(
                val, tokenizer, batch=rows, seq_len=seq_len, tokens=eval_tokens,
                device=machine.device, rank=machine.ranks.rank, world=machine.ranks.world,
            )  # fmt: skip
            return count_bits(m, batches, tokenizer.token_bytes, on_batch)

        say(
            f"base: d{depth} {config.arch} ({model.num_params():,} parameters, width {model_config.width}, "
            f"vocab {tokenizer.vocab_size:,}, T {seq_len}) on {describe(machine)}"
        )
        say(
            f"base: {plan.steps} steps of {plan.batch_tokens:,} tokens ({rows} x {seq_len} per forward) "
            f"of {config.dataset}" + (f", until step {plan.short} {2 * rows} x {seq_len // 2}" if plan.short else "")
        )
        _warn_of_repetition(corpus, tokenizer, plan)
        method = Supervised(
            machine, config, model, loss, loader, plan.batch_tokens, Schedule.pretraining, "val_bpb", validate,
            pins=True,
        )  # fmt: skip
        return Run(machine, config, model, tokenizer, optimizer, plan, method, budget, begun).go()


def text_tokens(corpus: CorpusInfo, tokenizer: Tokenizer) -> float | None:
    """Estimated tokens of all training text; None while some of it is still to come."""
    if corpus.pending:
        return None
    sample = list(islice(Shards.of(corpus, "train"), SAMPLE))
    return corpus.train_bytes / measure_compression(tokenizer.encode_batch, sample).bytes_per_token


def _warn_of_repetition(corpus: CorpusInfo, tokenizer: Tokenizer, plan: TrainState) -> None:
    there = text_tokens(corpus, tokenizer) if is_main_rank() else None
    if there and (passes := plan.steps * plan.batch_tokens / there) > MOST_PASSES:
        warn(
            f"warning: {passes:,.0f} passes over the {there:,.0f} tokens of {corpus.name}: beyond {MOST_PASSES}, the "
            "model memorises the text more than it learns anything new; use more text or train for less time"
        )


def _depth(config: BaseConfig, settings: dict[str, Any], vocab_size: int, machine: Machine, budget: float) -> int:
    """Depth when none is given: one whose best run fits the FLOPs or the time. A run that was begun keeps its own."""
    if config.target_flops <= 0 and not budget:
        return DEPTH
    if begun := states.begun_depth(settings, config):
        return begun
    flops = config.target_flops
    if flops <= 0:
        flops = budget * scale.EFFICIENCY * peak_flops(machine) * machine.ranks.world
    return scale.depth_for_budget(flops, config.target_param_data_ratio, vocab_size, config.max_seq_len)


def make_plan(config: BaseConfig, model: ModelConfig, machine: Machine, budget: float) -> TrainState:
    """Horizon, batch and learning rates before the first step."""
    s = model.shape
    ratio = config.target_param_data_ratio
    if config.num_iterations > 0 and config.total_batch_size > 0:
        n_tokens = config.num_iterations * config.total_batch_size
    elif config.target_flops > 0:
        n_tokens = int(config.target_flops / model.flops_per_token)
    elif budget:
        n_tokens = int(budget * scale.EFFICIENCY * peak_flops(machine) * machine.ranks.world / model.flops_per_token)
    else:
        n_tokens = scale.tokens(s, ratio)
    whole = s.seq_len * machine.ranks.world  # a batch has equally many sequences on every rank
    if config.total_batch_size > 0:
        batch = config.total_batch_size
        if batch % whole:
            raise UserError(
                f"a batch of {batch} tokens is no multiple of {machine.ranks.world} x {s.seq_len} (ranks x context)",
                f"Use --total_batch_size={max(1, batch // whole) * whole}",
                f"Use another number of ranks (NPROC_PER_NODE): {batch // s.seq_len} sequences must be shared evenly",
            )
    else:
        batch = max(1, round(scale.batch_tokens(s, n_tokens, ratio) / whole)) * whole
    steps = config.num_iterations if config.num_iterations > 0 else max(FEWEST_STEPS, n_tokens // batch)
    rates = scale.rates(s, batch, steps * batch, ratio)
    given = {
        "embedding": config.embedding_lr,
        "head": config.unembedding_lr,
        "matrix": config.matrix_lr,
        "scalar": config.scalar_lr,
        "weight_decay": config.weight_decay,
    }
    rates = replace(rates, **{k: v for k, v in given.items() if v >= 0})
    short = int(steps * scale.short_share(batch, s.seq_len)) if machine.device.type == "cpu" else 0
    return TrainState(
        "base",
        "",
        steps=steps,
        short=short,
        batch_tokens=batch,
        rates=asdict(rates),
        horizon=horizon(config),
    )
