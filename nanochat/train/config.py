"""Settings of the training commands. -1, 0 or an empty string means that the dial decides."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any, Literal

from nanochat.console import UserError, warn
from nanochat.scale import Arch

Compile = Literal["auto", "on", "off"]
Tracking = Literal["", "wandb", "trackio", "none"]


def parse_duration(text: str) -> float:
    """Seconds of "90s", "20m", "1.5h" or "1h30m"."""
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
        raise UserError(f"{text!r} is no duration", "Write it as 90s, 20m or 1h30m")
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
    seconds = sum(float(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in parts)
    if seconds <= 0:
        raise UserError("the time budget is zero", "Give a positive one, such as 20m")
    return seconds


@dataclass
class TrainConfig:
    """Settings of every training command."""

    run: str = ""
    """name of the run for the tracker (empty: WANDB_RUN, or the model's tag; "dummy": no tracker)"""
    tracker: Tracking = ""
    """where curves go beside metrics.jsonl (docs/trackers.md): wandb, trackio or none; empty: wandb if --run or
    WANDB_RUN names a run"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    dtype: str = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    compile: Compile = "auto"
    """torch.compile: auto uses it where a compiler is present"""
    device_batch_size: int = 0
    """sequences per forward pass and device; 0: chosen for the device"""
    total_batch_size: int = -1
    """tokens per optimiser step over all devices; -1: the dial decides"""
    num_iterations: int = -1
    """optimiser steps; -1: the dial (pretraining) or num_epochs decides"""
    eval_every: int = 0
    """steps between two validations; 0: five times in the run; -1: at the end only"""
    eval_tokens: int = 0
    """tokens per validation; 0: 10 steps' worth, at most 2^24"""
    answers: bool = True
    """at each validation, write the model's answers to a few fixed questions to answers.jsonl (docs/watching.md)"""
    save_every: int = 0
    """steps between two checkpoints; 0: ten times in the run; -1: none on such a schedule. One is always written at the
    end and before a validation"""
    save_minutes: float = 15.0
    """minutes after which a checkpoint is written if there was none; 0: never"""
    keep: int = 2
    """newest checkpoints of this run to keep, at least 1"""
    keep_every: int = 0
    """also keep checkpoints whose step is a multiple of this; 0: none"""
    keep_best: bool = False
    """also keep the checkpoint that did best in validation"""
    seed: int = 42
    """random seed: initial weights, the order of conversations, sampling"""
    deterministic: bool = False
    """the same bits in every run on the same machine and number of threads; slower on a GPU"""
    attention: Literal["auto", "fa3", "flash", "flex", "sdpa", "blocked"] = "auto"
    """implementation of attention (docs/pretraining.md); auto: on a GPU the fastest that works when it is tried"""
    checkpoint_activations: bool = False
    """keep only the layers' inputs for the backward pass and recompute the rest: less memory, slower"""
    fp8: bool = False
    """matrix products in float8 (NVIDIA from compute capability 8.9 on)"""
    max_hours: float = 0.0
    """save and stop after this many hours of training; 0: no limit"""
    max_dollars: float = 0.0
    """save and stop when training has cost this many dollars, at --price_per_hour; 0: no limit"""
    price_per_hour: float = 0.0
    """what the machine costs an hour, for --max_dollars"""
    resume: bool = False
    """go on from the newest checkpoint of this tag, when it was made with the same settings, even if its run came to
    its end or had another length. A run that was interrupted goes on without this"""
    fresh: bool = False
    """start anew even if a run with the same settings was interrupted; the older one is kept under another name"""
    backup: str = ""
    """where to send each checkpoint, the tokenizer, metrics and report meanwhile: hf://owner/name, a folder, or a URL
    of fsspec such as s3://bucket/x (docs/hub.md)"""
    on_finish: str = ""
    """shell command to run when the run has ended well, or --max_hours or --max_dollars is reached, and its backup is
    verified: such as one that ends the pod"""


@dataclass
class BaseConfig(TrainConfig):
    """Pretrain a model on text."""

    depth: int = 0
    """layers; the one dial: width, heads, batch, tokens and learning rates follow. 0: what suits --time_budget or
    --target_flops, else 20"""
    arch: Arch = "modern"
    """modern: upstream's of 2026, best bits per byte; classic: the original of 2025, which other programs can run"""
    window_pattern: str = ""
    """S (a quarter of the context) or L (all of it) for layers in turn, as in SSSL; empty: the dial decides"""
    bigram: int = -1
    """rows of the modern model's hashed table of token pairs; 0: none, -1: the dial decides"""
    dataset: str = "climbmix"
    """corpus to train on: a name, or a folder prepared by python -m nanochat.dataset"""
    max_seq_len: int = 0
    """context in tokens; 0: 512 below depth 10, else 2048"""
    target_param_data_ratio: float = 12.0
    """tokens per scaling parameter (matrices and head)"""
    target_flops: float = -1.0
    """total training FLOPs; -1: from the ratio"""
    time_budget: str = ""
    """wall-clock time to train, such as 20m; the number of steps follows the measured speed"""
    embedding_lr: float = -1.0
    """peak learning rate of the embedding (AdamW)"""
    unembedding_lr: float = -1.0
    """peak learning rate of the head (AdamW)"""
    matrix_lr: float = -1.0
    """peak learning rate of the matrices (Muon)"""
    scalar_lr: float = -1.0
    """peak learning rate of the scalars that mix layers (AdamW)"""
    weight_decay: float = -1.0
    """cautious weight decay of the matrices"""
    model_tag: str = ""
    """name of the checkpoint folder; empty: d<depth>"""
    extend: bool = False
    """train a finished run for longer: from its last checkpoint before the warm-down, which is done again later"""


@dataclass
class ChatConfig(TrainConfig):
    """Continue a model on conversations."""

    stage: Literal["mid", "sft"] = "mid"
    """which stage this is"""
    model_tag: str = ""
    """tag of the model to continue; empty: the newest"""
    model_step: int = -1
    """its step; -1: the newest"""
    source: Literal["", "base", "mid", "sft", "rl"] = ""
    """stage of the model to continue; empty: base for mid-training, mid for fine-tuning"""
    save_tag: str = ""
    """tag of the model that this makes; empty: that of the model it continues"""
    parent_hash: str = ""
    """refuse to continue a model unless its weights have this hash (16 digits); empty: any"""
    lr_scale: float = -1.0
    """peak learning rates as a share of pretraining's; -1: 0.5 for mid, 0.1 for sft"""
    num_epochs: float = 1.0
    """passes over the conversations, when num_iterations is -1"""
    conversations: int = 0
    """generated conversations (tiny world, spelling) in the mixture; 0: the default"""
    data: tuple[str, ...] = ()
    """your own conversations: files of jsonl, json or parquet, one {"messages": [...]} a line or row"""
    general: bool = True
    """also the default mixture's conversations, which are in English; --no-general: only yours"""
    dataset: str = ""
    """corpus of pretraining ("tinyworld" keeps the mixture inside that world); empty: from the checkpoint"""
    mixture: str = ""
    """a .toml file with the conversations to train on in place of the default mixture (docs/tasks.md)"""
    strict: bool = False
    """refuse your own conversations when training would change one (cut it at the context, leave it out because no
    answer is left, join its system text to the first question) or when an answer is empty"""


@dataclass
class RLConfig(TrainConfig):
    """Teach a chat model by rewards: it answers, a task grades, good answers become likelier."""

    source: Literal["mid", "sft"] = "sft"
    """stage of the model to start from"""
    model_tag: str = ""
    """tag of the model to start from; empty: the newest"""
    model_step: int = -1
    """its step; -1: the newest"""
    task: str = ""
    """GSM8K, SpellingBee, SimpleSpelling, TinyWorld, ARC-Easy, ARC-Challenge or MMLU; empty: SpellingBee for a model of
    the tiny world, else GSM8K"""
    examples_per_step: int = 16
    """questions per optimiser step over all devices"""
    num_samples: int = 16
    """answers to each question, at least 2: they are compared with each other"""
    max_new_tokens: int = 256
    """longest answer in tokens, tool output included"""
    temperature: float = 1.0
    """sampling temperature, in training and in evaluation; above 0"""
    top_k: int = 0
    """sample among the k likeliest tokens; 0: among all, the distribution being trained"""
    sample_batch_size: int = 64
    """answers sampled at once on each device"""
    num_epochs: float = 1.0
    """passes over the questions, when num_iterations is -1"""
    lr_scale: float = -1.0
    """peak learning rates as a share of pretraining's; -1: 0.05"""
    eval_examples: int = 400
    """held-out questions per evaluation, evenly spaced over all"""
    eval_samples: int = 8
    """answers per held-out question: pass@k is measured for k up to this"""
    compile: Compile = "off"
    """torch.compile for the optimiser: auto uses it where a compiler is present. The model is not compiled:
    answers differ in length, and every length would need its own compilation"""


# How long to train: a run may be continued with another horizon.
HORIZON = {"num_iterations", "target_param_data_ratio", "target_flops", "time_budget", "num_epochs"}
# What else may differ between a run and its continuation.
FREE = {
    "run", "tracker", "model_tag", "save_tag", "device", "data", "compile", "device_batch_size", "resume", "fresh",
    "extend", "save_every", "save_minutes", "keep", "keep_every", "keep_best", "eval_every", "eval_tokens",
    "deterministic", "checkpoint_activations", "attention", "parent_hash", "max_hours", "max_dollars", "price_per_hour",
    "sample_batch_size", "eval_examples", "eval_samples", "strict", "backup", "on_finish", "answers",
}  # fmt: skip
# What is nobody else's business: neither metrics nor a tracker hear of it.
PRIVATE = {"backup", "on_finish"}


def fingerprint(config: TrainConfig) -> dict[str, Any]:
    """The settings that affect the result; a run resumes only with the same ones."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name not in FREE | HORIZON}


def horizon(config: TrainConfig) -> dict[str, Any]:
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name in HORIZON}


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any], config: TrainConfig) -> list[str]:
    """Names of settings whose values differ. A flag that `old`, from an older version, lacks has its default there;
    any other setting that it lacks counts as equal."""
    defaults = settings(type(config)())
    return [name for name, value in new.items() if old.get(name, defaults.get(name, value)) != value]


def check_config(config: TrainConfig) -> None:
    """Refuse impossible numbers before anything is loaded, and a tracker that is not installed."""
    if config.tracker or config.run:
        tracker_of(config.run, config.tracker)
    for name in ("device_batch_size", "eval_tokens", "conversations"):
        if getattr(config, name, 0) < 0:
            raise UserError(f"--{name} is {getattr(config, name)}", "Give a positive number, or leave it out")
    for name in ("max_hours", "max_dollars", "price_per_hour", "save_minutes", "keep_every"):
        if not 0 <= getattr(config, name) < float("inf"):
            raise UserError(f"--{name} is {getattr(config, name)}", "Give a positive number, or leave it out")
    if config.max_dollars and not config.price_per_hour:
        raise UserError("--max_dollars needs to know what an hour costs", "Add --price_per_hour")
    if config.keep < 1:
        raise UserError(f"--keep is {config.keep}, which would keep no checkpoint", "Give 1 or more")
    if config.fresh and (config.resume or getattr(config, "extend", False)):
        raise UserError("--fresh starts anew, --resume and --extend go on", "Give one of them")
    if config.num_iterations == 0 or config.num_iterations < -1:
        raise UserError(f"--num_iterations is {config.num_iterations}", "Give 1 or more, or leave it out")
    if isinstance(config, BaseConfig):
        if config.depth < 0:
            raise UserError(f"depth is {config.depth}, which is too small", "Give at least 1, such as --depth=4")
        if config.bigram < -1:
            raise UserError(f"--bigram is {config.bigram}", "Give a number of rows, 0 for none, or leave it out")
        if config.bigram > 0 and config.arch == "classic":
            raise UserError("the classic model has no table of token pairs", "Leave --bigram or --arch out")
        if config.max_seq_len < 0:
            raise UserError(f"--max_seq_len is {config.max_seq_len}", "Give a positive number, or leave it out")
        if config.target_param_data_ratio <= 0:
            raise UserError(f"--target_param_data_ratio is {config.target_param_data_ratio}", "Give a positive number")
        if config.time_budget and config.num_iterations > 0:
            raise UserError("--time_budget and --num_iterations both set the horizon", "Give one of them")
        if config.time_budget and config.target_flops > 0:
            raise UserError("--time_budget and --target_flops both set depth and horizon", "Give one of them")
    if isinstance(config, ChatConfig | RLConfig) and not 0 < config.num_epochs < float("inf"):
        raise UserError(f"--num_epochs is {config.num_epochs}", "Give a positive number")
    if isinstance(config, ChatConfig) and not config.general and not config.data:
        raise UserError("--no-general leaves nothing to learn", "Add your own conversations with --data FILE")
    if isinstance(config, ChatConfig) and not config.general and config.conversations:
        raise UserError("--no-general takes no generated conversations", "Leave --conversations out")
    if isinstance(config, ChatConfig) and config.mixture and (config.data or config.conversations):
        problem = "--mixture takes the place of --data and --conversations"
        raise UserError(problem, "Write files and sizes into the mixture file")
    if isinstance(config, RLConfig):
        _check_rl(config)


def _check_rl(config: RLConfig) -> None:
    for name in ("examples_per_step", "max_new_tokens", "sample_batch_size", "eval_examples", "eval_samples"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} is {getattr(config, name)}", "Give 1 or more")
    if config.num_samples < 2:
        raise UserError(
            f"--num_samples is {config.num_samples}: an answer is good or bad only compared with others",
            "Give 2 or more",
        )
    if not 0 < config.temperature < float("inf"):
        raise UserError(f"--temperature is {config.temperature}: sampling needs one above 0", "Give a positive number")
    if config.top_k < 0:
        raise UserError(f"--top_k is {config.top_k}", "Give a positive number, or 0 for all tokens")
    if config.fp8:
        raise UserError("--fp8 is for pretraining and fine-tuning", "Leave it out")


def run_name(run: str) -> str:
    """--run, or WANDB_RUN, which the original sets to "dummy" for none."""
    name = run or os.environ.get("WANDB_RUN", "")
    return "" if name == "dummy" else name


def asked_tracker(run: str, tracker: str) -> str:
    """wandb, trackio, or "" for none, by --run, --tracker and WANDB_RUN."""
    if run == "dummy" or tracker == "none":
        return ""
    return tracker or ("wandb" if run_name(run) else "")


def tracker_of(run: str, tracker: str) -> str:
    """The tracker that was asked for. UserError when it is not installed."""
    chosen = asked_tracker(run, tracker)
    if not chosen or _is_installed(chosen):
        return chosen
    if tracker or run:
        flag = "--tracker" if tracker else "--run"
        raise UserError(
            f"{flag} needs the {chosen} package, which is not installed",
            f"Run pip install {chosen}, or leave {flag} out",
        )
    # A name left in the environment must not cost a night of training.
    warn("WANDB_RUN is set, but wandb is not installed: logging to metrics.jsonl only (pip install wandb)")
    return ""


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # as after sys.modules[package] = None
        return False


def settings(config: TrainConfig) -> dict[str, Any]:
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config) if f.name not in PRIVATE}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
