"""Every stage's settings, from the user's options and the machine."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat import scale
from nanochat.console import UserError, duration, flags_of
from nanochat.corpus import HUB_CORPORA, TINYWORLD, check_corpus, corpus_name, find_info
from nanochat.machine import cpu_count, cpu_name, peak_flops, setup
from nanochat.paths import STAGES, eval_bundle_dir
from nanochat.tasks import CustomJSON
from nanochat.train import parse_duration

DEFAULT_BUDGET = 20 * 60.0  # seconds of pretraining on a CPU by default
RATIO = 12.0  # tokens per scaling parameter
GPU_SHARDS, CPU_SHARDS = 240, 8  # training shards to download, of about 250 MB of text
FULL_DEPTH, FULL_VOCAB, FULL_RATIO = 20, 65536, 20.0  # upstream's classic model, about four hours on 8 H100

TINY_DEPTH, TINY_CONTEXT, TINY_VOCAB = 4, 256, 2048
TINY_BATCH, TINY_STEPS = 4096, 1000
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
    """your own conversations for mid-training and fine-tuning: files of jsonl, json or parquet"""
    price_per_hour: float = 0.0
    """what the machine costs, in dollars per hour, for the report"""
    run: str = ""
    """name for Weights & Biases (empty: WANDB_RUN)"""
    replaced: Literal["stop", "use", "retrain"] = "stop"
    """if something that an earlier speedrun made (a model, the tokenizer, the text) has been replaced and a later stage
    needs it: stop, use the replacement, or make it again"""
    strict: bool = False
    """stop before mid-training when something in your own conversations would have to be changed (mid_train --help)"""
    skip_bad: bool = False
    """leave out files and rows of your own text that cannot be read, and count them, instead of stopping"""
    backup: str = ""
    """where to send all checkpoints, tokenizer, metrics and report meanwhile: hf://owner/name, a folder, or a URL of
    fsspec such as s3://bucket/x (docs/hub.md)"""
    on_finish: str = ""
    """shell command to run when all is done and the backup is verified, such as one that ends the pod"""
    dry_run: bool = False
    """check that the text can be read, print the stages with their settings, and stop"""


@dataclass(frozen=True)
class Stage:
    """One command.

    output: pattern of its output under the base dir, for later stages or the user; "" for none.
    inputs: the user's files and folders that it reads. torchrun: runs on all GPUs. resumable: accepts --resume.
    extra: arguments that do not change the output.
    """

    name: str
    args: tuple[str, ...]
    output: str = ""
    inputs: tuple[Path, ...] = ()
    torchrun: bool = False
    resumable: bool = False
    extra: tuple[str, ...] = ()
    module: str = ""  # when it is not scripts.<name>
    trains: str = ""  # the stage of the model that it trains

    def display(self, nproc: int) -> str:
        module = self.module or f"scripts.{self.name}"
        if self.torchrun and nproc > 1:
            start = f"torchrun --standalone --nproc_per_node={nproc} -m {module} --"
        else:
            start = f"python -m {module}"
        return " ".join([start, *map(shlex.quote, (*self.args, *self.extra))])


@dataclass(frozen=True)
class Plan:
    stages: tuple[Stage, ...]
    nproc: int
    summary: str
    corpus: str
    tag: str
    flags: tuple[str, ...] = ()  # of the user's command: a stage's remedies mention only these


def resolve(config: SpeedrunConfig, choices: dict[str, int]) -> Plan:
    """All settings. choices: depths chosen before, by question. A new one is added, since measuring the machine again
    could give another depth and so discard a half-trained model."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    nproc = rank_count(os.environ.get("NPROC_PER_NODE", ""), gpus)
    dataset = config.dataset if config.dataset != "auto" else ("climbmix" if gpus else "tinyworld")
    budget = parse_duration(config.time_budget) if config.time_budget else 0.0
    if config.depth < 0:
        raise UserError(f"depth is {config.depth}", "Give a depth of at least 1, or leave it out")
    if config.vocab_size and config.vocab_size < 300:
        raise UserError(f"a vocabulary of {config.vocab_size} is too small", "Give at least 300, or leave it out")
    _check_inputs(config, dataset, gpus)
    machine = f"{gpus} x {torch.cuda.get_device_name()}" if gpus else f"{cpu_name()}, {cpu_count()} cores"
    if dataset == "tinyworld":
        depth = config.depth or TINY_DEPTH
        stages = _tiny_world(config, depth, budget)
        what = f"tiny world (seed {config.world_seed})"
    else:
        if Path(dataset).exists():
            dataset = str(Path(dataset).resolve())
        depth = config.depth or _choose_depth(config, dataset, budget, gpus, choices)
        stages = _text(config, dataset, depth, gpus)
        what = f"{config.dataset}, depth {depth}"
    limit = f", pretraining {duration(budget)}" if budget else ""
    summary = f"{what} on {machine}{limit}"
    return Plan(stages, nproc, summary, corpus_name(dataset), f"d{depth}", tuple(flags_of(SpeedrunConfig)))


def _check_inputs(config: SpeedrunConfig, dataset: str, gpus: int) -> None:
    """Check all inputs at once: a mistake in the last file must not show only after hours of training."""
    if dataset not in (TINYWORLD, *HUB_CORPORA) and not Path(dataset).exists() and not find_info(dataset):
        raise UserError(
            f"unknown dataset {dataset!r}", f"Choose {', '.join((TINYWORLD, *HUB_CORPORA))}, or a path that exists"
        )
    if config.dry_run:  # otherwise the first stage reports it just as early
        check_corpus(dataset, GPU_SHARDS if gpus else CPU_SHARDS, config.skip_bad)
    for path in config.data:
        CustomJSON(path)


def rank_count(wanted: str, gpus: int) -> int:
    """NPROC_PER_NODE, else the largest power of two of the GPUs: batches are powers of two."""
    if wanted:
        if not wanted.isdecimal() or int(wanted) < 1:
            raise UserError(f"NPROC_PER_NODE is {wanted!r}", "Set it to the number of processes, or unset it")
        return int(wanted)
    return 1 << (max(1, gpus).bit_length() - 1)


def _choose_depth(config: SpeedrunConfig, dataset: str, budget: float, gpus: int, choices: dict[str, int]) -> int:
    if gpus and not budget:
        return FULL_DEPTH
    question = f"{dataset} {budget:g}s vocab {config.vocab_size} on {gpus} GPUs"
    if question not in choices:
        ready = (budget or DEFAULT_BUDGET) * scale.EFFICIENCY * peak_flops(setup()) * max(1, gpus)
        choices[question] = scale.depth_for_flops(ready, RATIO, config.vocab_size)
    return choices[question]


def _tiny_world(config: SpeedrunConfig, depth: int, budget: float) -> tuple[Stage, ...]:
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
    return _stages(
        config, dataset, "tinyworld", config.vocab_size or TINY_VOCAB, f"d{depth}", base, chat, "TinyWorld,SpellingBee"
    )


def _text(config: SpeedrunConfig, dataset: str, depth: int, gpus: int) -> tuple[Stage, ...]:
    name = corpus_name(dataset)
    full = gpus and not config.time_budget and not config.depth
    vocab = config.vocab_size or (FULL_VOCAB if full else scale.default_vocab(depth))
    ratio = FULL_RATIO if full else RATIO
    length = f"--time_budget={config.time_budget}" if config.time_budget else f"--target_param_data_ratio={ratio:g}"
    base = (f"--depth={depth}", f"--dataset={name}", length)
    skip = ("--skip_bad",) if config.skip_bad else ()
    prepare = (f"--dataset={dataset}", "-n", str(GPU_SHARDS if gpus else CPU_SHARDS), *skip)
    return _stages(config, prepare, name, vocab, f"d{depth}", base, {"mid": (), "sft": ()}, "")


def _stages(
    config: SpeedrunConfig,
    prepare: tuple[str, ...],
    corpus: str,
    vocab: int,
    tag: str,
    base: tuple[str, ...],
    chat: dict[str, tuple[str, ...]],
    tasks: str,
) -> tuple[Stage, ...]:
    run = (f"--run={config.run}",) if config.run else ()
    own = tuple(Path(path).resolve() for path in config.data)
    files = ("--data", *map(str, own)) if own else ()
    path = Path(prepare[0].removeprefix("--dataset="))
    source = (path,) if path.is_absolute() else ()
    wanted = ("-a", tasks) if tasks else ()
    price = (f"--price_per_hour={config.price_per_hour:g}",) if config.price_per_hour else ()
    model = f"--model_tag={tag}"

    def training(name: str, stage: str, args: tuple[str, ...], more: tuple[str, ...] = ()) -> Stage:
        """more: flags for the user's conversations, if it reads them."""
        inputs = own if more else ()
        output = f"{STAGES[stage]}/{tag}/step_*/manifest.json"
        extra = (*run, "--strict") if more and config.strict else run
        return Stage(
            name, (*args, model, *more), output, inputs, torchrun=True, resumable=True, extra=extra, trains=stage
        )

    return (
        Stage("dataset", prepare, f"data/{corpus}/meta.json", source, module="nanochat.dataset"),
        Stage("tok_train", (f"--dataset={corpus}", f"--vocab_size={vocab}"), "tokenizer/meta.json"),
        Stage("tok_eval", (f"--dataset={corpus}",)),
        training("base_train", "base", base),
        Stage("base_loss", (f"--dataset={corpus}", model), torchrun=True),
        Stage("base_eval", (f"--dataset={corpus}", model), inputs=(eval_bundle_dir(),), torchrun=True),
        training("mid_train", "mid", chat["mid"], files),
        Stage("mid_eval", ("-i", "mid", model, *wanted), torchrun=True, module="scripts.chat_eval"),
        training("chat_sft", "sft", chat["sft"], files),
        Stage("chat_eval", ("-i", "sft", model, *wanted), torchrun=True),
        Stage("report", ("generate", model, *price), "report/report.md", module="nanochat.report"),
    )
