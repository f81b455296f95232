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

from nanochat.console import UserError, run_command, say, warn

PARTS = ("core", "bpb", "sample")


@dataclass
class Config:
    eval: str = ""
    """core, bpb and sample, separated by commas; empty: all, but core only when its data is here or,
    after text from the Hub, can be downloaded"""
    max_per_task: int = -1
    """questions of each CORE task; -1: all"""
    tasks: str = ""
    """CORE tasks, separated by commas; empty: all"""
    shots: int = -1
    """examples in every prompt of CORE; -1: as many as each task has"""
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
    parts = {part.strip() for part in config.eval.split(",")} if config.eval else set(PARTS)
    if not parts <= set(PARTS):
        raise UserError(
            f"--eval={config.eval} asks for {', '.join(sorted(parts - set(PARTS)))}",
            f"Choose from {', '.join(PARTS)}",
        )
    from nanochat.corpus.names import HUB_CORPORA
    from nanochat.eval import EvalResult, TaskResult, evaluate_core
    from nanochat.eval.base import measure, openings, samples
    from nanochat.eval.bundle import agreed, download_bundle, missing_bundle
    from nanochat.eval.core import BATCH_TOKENS, read_tasks, show, write_csv
    from nanochat.eval.core_kept import Kept, kept_file
    from nanochat.eval.results import code, require_counts, require_writable
    from nanochat.eval.subject import open_subject
    from nanochat.paths import eval_bundle_dir

    require_writable(config.json)
    require_writable(config.csv, "csv")
    require_counts(device_batch_size=config.device_batch_size, split_tokens=config.split_tokens)
    if config.max_per_task == 0 or config.max_per_task < -1:
        raise UserError(f"--max_per_task is {config.max_per_task}", "Give a positive number, or -1 for all questions")
    if config.shots < -1:
        raise UserError(f"--shots is {config.shots}", "Give 0 or more, or -1 for as many as each task has")
    if config.hf_path:
        parts &= {"core"}
        if config.model_tag or config.step is not None or config.data or config.dataset:
            raise UserError("--hf_path with --model_tag, --step, --data or --dataset", "Those are for our own models")
    shots = config.shots if config.shots >= 0 else None
    labels = [name for name in map(str.strip, config.tasks.split(",")) if name]
    bundle, wanted = eval_bundle_dir(), bool(labels or config.csv or config.hf_path)
    if wanted and "core" not in parts:
        raise UserError("--tasks, --csv and --hf_path are for CORE", "Add core to --eval")
    asked = "core" in parts and bool(wanted or config.eval)
    if asked or ("core" in parts and config.dataset in HUB_CORPORA):
        try:
            download_bundle(bundle)
        except UserError as error:
            if asked:
                raise
            warn(str(error))  # the text came over a network, so this was worth a try: a run must not end here
    if not (missing := missing_bundle(bundle)) and "core" in parts:
        read_tasks(bundle, labels)  # an unknown name is told before the model is loaded
    elif missing and asked:
        raise UserError(missing.removeprefix("CORE is skipped: "))
    began = time.monotonic()
    batch = BATCH_TOKENS
    if config.hf_path:
        from nanochat.eval.hf import open_hf

        subject, batch = open_hf(config.hf_path, config.device, config.dtype)
    else:
        subject = open_subject("base", config.model_tag, config.step, config.device, config.dtype)
    bpb: dict[str, float] = {}
    versions: dict[str, str] = {}
    tasks: dict[str, TaskResult] = {}
    core, texts = None, []
    if "bpb" in parts:
        bpb, versions = measure(subject, config.data, config.dataset, config.split_tokens, config.device_batch_size)
    if "sample" in parts:
        texts = samples(subject, openings(config.dataset or subject.dataset))
    if "core" in parts:
        if missing := agreed(missing):
            say(missing)
        else:
            limit = config.max_per_task if config.max_per_task > 0 else None
            model, tokenizer = subject.model, subject.tokenizer
            facts = {"tokenizer": tokenizer.hash, "config": str(model.config), "dtype": str(model.dtype), **code()}
            kept = Kept(kept_file(subject.facts), facts)
            whole = not labels and shots is None
            mean, tasks = evaluate_core(model, tokenizer, bundle, limit, labels, config.rules, kept, batch, shots)
            core = mean if whole else None
            show(tasks, whole)
            if config.csv:
                write_csv(config.csv, tasks, whole)
    seconds = time.monotonic() - began
    result = EvalResult("base_eval", subject.facts, tasks, core=core, bpb=bpb, bpb_version=versions, seconds=seconds)
    result.finish(config.json, texts)


def main() -> None:
    run_command(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
