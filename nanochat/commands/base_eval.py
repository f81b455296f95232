"""Grade a base model: CORE over its 22 tasks, bits per byte, and a few samples.

python -m scripts.base_eval --max_per_task=100

torchrun --standalone --nproc_per_node=8 -m scripts.base_eval
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nanochat.console import UserError, command


@dataclass
class Config:
    eval: str = ""
    """core, bpb and sample, separated by commas; empty: all, but core only if its data is here or,
    with a --dataset from the Hub, can be downloaded"""
    max_per_task: int = -1
    """questions of each CORE task; -1: all"""
    tasks: str = ""
    """CORE tasks, separated by commas; empty: all"""
    shots: int = -1
    """examples in every prompt of CORE; -1: each task's own number"""
    rules: Literal["nanochat", "dclm"] = "nanochat"
    """prompts and spans of CORE: as in published nanochat figures, or as in papers (docs/evaluation.md)"""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint; the newest by default"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; the last by default"""
    hf_path: str = ""
    """CORE of another model: folder, .gguf file or Hub repository for transformers (docs/evaluation.md)"""
    device_batch_size: int = 0
    """rows per forward pass and device; 0: as many as keep the logits under 1 GiB"""
    split_tokens: int = 0
    """tokens of each split for bits per byte; 0: 10,485,760, and 131,072 on a CPU"""
    dataset: str = ""
    """prepared corpus whose train and val splits are measured; empty: the one the model was trained on"""
    data: Path | None = None
    """file or folder of text (txt, md, jsonl, parquet) to measure as well"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    dtype: str = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    json: Path | None = None
    """file for the results"""
    csv: Path | None = None
    """file for the table of CORE"""


def run(config: Config) -> None:
    from nanochat.eval import CoreAsked, chosen_parts, grade_core, missing_core

    parts = chosen_parts(config.eval)  # a wrong flag is reported before torch is imported
    from nanochat.eval import (
        BATCH_TOKENS,
        EvalResult,
        HFSubject,
        Subject,
        TaskResult,
        measure_bpb,
        open_hf,
        open_subject,
        require_counts,
        require_writable,
        sample_openings,
        sample_texts,
    )

    require_writable(config.json)
    require_writable(config.csv, "csv")
    require_counts(device_batch_size=config.device_batch_size, split_tokens=config.split_tokens)
    hf = bool(config.hf_path)
    asked = CoreAsked(config.tasks, config.max_per_task, config.shots, config.rules, config.csv, only=hf)
    if hf:
        parts &= {"core"}
        if config.model_tag or config.step is not None or config.data or config.dataset:
            raise UserError(
                "--model_tag, --step, --data and --dataset are for our own models, not for --hf_path", "Leave them out"
            )
    missing = missing_core(asked, parts, bool(config.eval), config.dataset)
    began = time.monotonic()
    bpb: dict[str, float] = {}
    versions: dict[str, str] = {}
    tasks: dict[str, TaskResult] = {}
    core, texts = None, []
    subject: Subject | HFSubject
    if hf:
        subject, batch = open_hf(config.hf_path, config.device, config.dtype)
    else:
        subject, batch = open_subject("base", config.model_tag, config.step, config.device, config.dtype), BATCH_TOKENS
        if "bpb" in parts:
            bpb, versions = measure_bpb(
                subject, config.data, config.dataset, config.split_tokens, config.device_batch_size
            )
        if "sample" in parts:
            texts = sample_texts(subject, sample_openings(config.dataset or subject.dataset))
    if "core" in parts:
        core, tasks = grade_core(subject, asked, missing, batch)
    seconds = time.monotonic() - began
    result = EvalResult("base_eval", subject.facts, tasks, core=core, bpb=bpb, bpb_version=versions, seconds=seconds)
    result.finish(config.json, texts)


main = command(Config, run, __doc__)
