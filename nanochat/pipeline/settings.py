"""From what the person asked and what the machine is to every stage's settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nanochat import scale
from nanochat.console import UserError, duration
from nanochat.dataset.corpora import corpus_name
from nanochat.machine import cpu_count, cpu_name, peak_flops, setup
from nanochat.paths import eval_bundle_dir
from nanochat.train.config import parse_duration

EFFICIENCY = 0.4  # share of the matmul peak that training small models reaches, for choosing a depth

TINY_DEPTH, TINY_CONTEXT, TINY_VOCAB = 4, 256, 2048
TINY_BATCH, TINY_STEPS = 4096, 900
TINY_CONVERSATIONS = {"mid": 12000, "sft": 6000}


@dataclass
class SpeedrunConfig:
    """From nothing to a chat: dataset, tokenizer, pretraining, mid-training, fine-tuning, evaluation, report."""

    dataset: str = "auto"
    """tinyworld, climbmix, fineweb-edu, or a path to parquet, jsonl or txt; auto: climbmix on GPUs, else tinyworld"""
    time_budget: str = ""
    """wall-clock of pretraining, such as 20m; decides depth and horizon"""
    depth: int = 0
    """layers; 0: what the machine and the budget allow"""
    vocab_size: int = 0
    """vocabulary with the nine special tokens; 0: by depth"""
    world_seed: int = 0
    """seed of the built-in tiny world"""
    data: tuple[str, ...] = ()
    """your own conversations for mid-training and fine-tuning: .jsonl files"""
    price_per_hour: float = 0.0
    """what the machine costs, in dollars per hour, for the report"""
    run: str = ""
    """name for Weights & Biases (empty: WANDB_RUN)"""
    dry_run: bool = False
    """print the stages with their settings and stop"""


@dataclass(frozen=True)
class Stage:
    """One command. torchrun: on all GPUs. resumable: understands --resume."""

    name: str
    args: tuple[str, ...]
    torchrun: bool = False
    resumable: bool = False
    module: str = ""  # when it is not scripts.<name>

    def display(self, nproc: int) -> str:
        module = self.module or f"scripts.{self.name}"
        if self.torchrun and nproc > 1:
            start = f"torchrun --standalone --nproc_per_node={nproc} -m {module} --"
        else:
            start = f"python -m {module}"
        return " ".join([start, *self.args])


@dataclass(frozen=True)
class Plan:
    stages: tuple[Stage, ...]
    nproc: int
    summary: str
    corpus: str


def resolve(config: SpeedrunConfig) -> Plan:
    """All settings, decided once; the same question on the same machine gives the same plan."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    nproc = int(os.environ.get("NPROC_PER_NODE") or max(1, gpus))
    dataset = config.dataset if config.dataset != "auto" else ("climbmix" if gpus else "tinyworld")
    budget = parse_duration(config.time_budget) if config.time_budget else 0.0
    if config.depth < 0:
        raise UserError(f"depth is {config.depth}", "Give a depth of at least 1, or leave it out")
    if config.vocab_size and config.vocab_size < 300:
        raise UserError(f"a vocabulary of {config.vocab_size} is too small", "Give at least 300, or leave it out")
    machine = f"{gpus} x {torch.cuda.get_device_name()}" if gpus else f"{cpu_name()}, {cpu_count()} cores"
    if dataset == "tinyworld":
        stages = _tiny_world(config, budget)
        what = f"tiny world (seed {config.world_seed})"
    else:
        stages = _text(config, dataset, budget, gpus)
        what = dataset
    limit = f", pretraining {duration(budget)}" if budget else ""
    return Plan(stages, nproc, f"{what} on {machine}{limit}", corpus_name(dataset))


def _tiny_world(config: SpeedrunConfig, budget: float) -> tuple[Stage, ...]:
    depth = config.depth or TINY_DEPTH
    length = (f"--time_budget={config.time_budget}",) if budget else (f"--num_iterations={TINY_STEPS}",)
    base = (
        f"--depth={depth}",
        "--dataset=tinyworld",
        f"--max_seq_len={TINY_CONTEXT}",
        f"--total_batch_size={TINY_BATCH}",
        *length,
    )
    dataset = ("--dataset=tinyworld", f"--world_seed={config.world_seed}")
    chat: dict[str, tuple[str, ...]] = {s: (f"--conversations={n}",) for s, n in TINY_CONVERSATIONS.items()}
    return _stages(config, dataset, "tinyworld", config.vocab_size or TINY_VOCAB, base, chat, "TinyWorld,SpellingBee")


def _text(config: SpeedrunConfig, dataset: str, budget: float, gpus: int) -> tuple[Stage, ...]:
    name = corpus_name(dataset)
    if gpus and not budget and not config.depth:
        depth, ratio, vocab = (
            20,
            20.0,
            config.vocab_size or 65536,
        )  # the seed's: classic d20, about four hours on 8 H100
    else:
        ratio = 12.0
        vocab = config.vocab_size
        machine = setup()
        ready = (budget or 20 * 60.0) * EFFICIENCY * peak_flops(machine) * max(1, gpus)
        depth = config.depth or scale.depth_for_flops(ready, ratio, vocab)
        vocab = vocab or scale.default_vocab(depth)
    length = (f"--time_budget={config.time_budget}",) if budget else (f"--target_param_data_ratio={ratio:g}",)
    base = (f"--depth={depth}", f"--dataset={name}", *length)
    prepare = (f"--dataset={dataset}", "-n", str(240 if gpus else 8))
    return _stages(config, prepare, name, vocab, base, {"mid": (), "sft": ()}, "")


def _stages(
    config: SpeedrunConfig,
    prepare: tuple[str, ...],
    corpus: str,
    vocab: int,
    base: tuple[str, ...],
    chat: dict[str, tuple[str, ...]],
    tasks: str,
) -> tuple[Stage, ...]:
    run = (f"--run={config.run}",) if config.run else ()
    files = ("--data", *(str(Path(path).resolve()) for path in config.data)) if config.data else ()
    wanted = ("-a", tasks) if tasks else ()
    price = (f"--price_per_hour={config.price_per_hour:g}",) if config.price_per_hour else ()
    core = () if eval_bundle_dir().is_dir() else ("--eval=bpb,sample",)
    return (
        Stage("dataset", prepare, module="nanochat.dataset"),
        Stage("tok_train", (f"--dataset={corpus}", f"--vocab_size={vocab}")),
        Stage("tok_eval", (f"--dataset={corpus}",)),
        Stage("base_train", (*base, *run), torchrun=True, resumable=True),
        Stage("base_loss", (f"--dataset={corpus}",), torchrun=True),
        Stage("base_eval", (f"--dataset={corpus}", *core), torchrun=True),
        Stage("mid_train", (*chat["mid"], *files, *run), torchrun=True, resumable=True),
        Stage("mid_eval", ("-i", "mid", *wanted), torchrun=True, module="scripts.chat_eval"),
        Stage("chat_sft", (*chat["sft"], *files, *run), torchrun=True, resumable=True),
        Stage("chat_eval", ("-i", "sft", *wanted), torchrun=True),
        Stage("report", ("generate", *price), module="nanochat.report"),
    )
