"""Bits per byte of a base model on its training and validation text (or any text), and a few samples.

python -m scripts.base_loss

torchrun --standalone --nproc_per_node=8 -m scripts.base_loss -- --device_batch_size=32
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nanochat.console import command


@dataclass
class Config:
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint; the newest by default"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; the last by default"""
    device_batch_size: int = 0
    """rows per forward pass and device; 0: as many as keep the logits under 1 GiB"""
    split_tokens: int = 0
    """tokens to measure of each split; 0: 10,485,760, and 131,072 on a CPU"""
    dataset: str = ""
    """prepared corpus whose train and val splits are measured; empty: the one the model was trained on"""
    data: Path | None = None
    """file or folder of text (txt, md, jsonl, parquet) to measure as well"""
    device: str = "auto"
    """auto, cpu, cuda or mps"""
    dtype: str = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    quantize: Literal["", "int8"] = ""
    """int8: measure again with matrices in eight bits, and say what that costs (docs/inference.md)"""
    json: Path | None = None
    """file for the results"""


def run(config: Config) -> None:
    from nanochat.eval import (
        EvalResult,
        cost_of_int8,
        measure_bpb,
        open_subject,
        require_counts,
        require_writable,
        sample_openings,
        sample_texts,
    )

    require_writable(config.json)
    require_counts(device_batch_size=config.device_batch_size, split_tokens=config.split_tokens)
    began = time.monotonic()
    subject = open_subject("base", config.model_tag, config.step, config.device, config.dtype)
    asked = (config.data, config.dataset, config.split_tokens, config.device_batch_size)
    bpb, versions = measure_bpb(subject, *asked)
    int8 = {"bpb": cost_of_int8(subject, bpb, *asked)} if config.quantize else {}
    texts = sample_texts(subject, sample_openings(config.dataset or subject.dataset))
    seconds = time.monotonic() - began
    result = EvalResult("base_loss", subject.facts, bpb=bpb, bpb_version=versions, int8=int8, seconds=seconds)
    result.finish(config.json, texts)


main = command(Config, run, __doc__)
