"""Grade a chat model on tasks: facts and tools of the tiny world, spelling, ARC, MMLU, GSM8K, HumanEval.

python -m scripts.chat_eval -i sft -a TinyWorld

torchrun --standalone --nproc_per_node=8 -m scripts.chat_eval -- -i sft
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nanochat.console import UserError, command, say


@dataclass
class Config:
    source: Annotated[Literal["base", "mid", "sft", "rl"], tyro.conf.arg(aliases=["-i"])] = "sft"
    """stage of the checkpoint"""
    task: Annotated[str, tyro.conf.arg(aliases=["-a", "--task-name"])] = ""
    """names separated by commas or bars, or all; empty: those whose data is here or can be downloaded"""
    max_problems: Annotated[int | None, tyro.conf.arg(aliases=["-x"])] = None
    """questions of each task, evenly spaced; all by default"""
    batch_size: Annotated[int, tyro.conf.arg(aliases=["-b"])] = 32
    """answers generated at once"""
    temperature: Annotated[float, tyro.conf.arg(aliases=["-t"])] = 0.0
    """sampling temperature; 0 is greedy"""
    num_samples: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """sampled answers to each question, for pass@1, 2, 4, ...; not where the answer is a letter"""
    top_k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 50
    """sample among the k likeliest tokens; 0: among all"""
    max_new_tokens: Annotated[int, tyro.conf.arg(aliases=["-m"])] = 512
    """length of an answer in tokens"""
    seed: int = 0
    """seed of sampling"""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """tag of the checkpoint; the newest by default"""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """step of the checkpoint; the last by default"""
    device: Annotated[str, tyro.conf.arg(aliases=["--device-type"])] = "auto"
    """auto, cpu, cuda or mps"""
    dtype: str = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    quantize: Literal["", "int8"] = ""
    """int8: ask again with matrices in eight bits, on a CPU, and compare (docs/inference.md)"""
    require_sandbox: bool = False
    """run the model's code only where files, network and processes are out of its reach (docs/sandbox.md)"""
    json: Path | None = None
    """file for the results"""


def run(config: Config) -> None:
    for name in ("max_problems", "batch_size", "max_new_tokens", "num_samples"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}", "Give a number of 1 or more")
    if config.temperature < 0 or config.top_k < 0:
        remedy = "Use --temperature=0 for greedy answers, --top_k=0 for all tokens"
        raise UserError("--temperature and --top_k cannot be negative", remedy)
    from nanochat.eval import (
        AnswerSettings,
        EvalResult,
        chatcore,
        choose_tasks,
        equal_answers,
        evaluate_task,
        open_subject,
        require_writable,
        show_task,
        task_names,
    )
    from nanochat.tasks import open_sandbox

    require_writable(config.json)
    settings = AnswerSettings(
        batch=config.batch_size,
        max_problems=config.max_problems,
        max_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        seed=config.seed,
        num_samples=config.num_samples,
    )
    if config.require_sandbox:
        open_sandbox(required=True)
    if config.task not in ("", "all"):
        task_names(config.task)  # report an unknown name before the model is loaded
    began = time.monotonic()
    subject = open_subject(config.source, config.model_tag, config.step, config.device, config.dtype)
    results, int8 = {}, {}
    for name, task in choose_tasks(config.task, subject.dataset, subject.machine.ranks, subject.world_seed).items():
        asked = (subject.model, subject.tokenizer, task, settings)
        small = (
            evaluate_task(*asked, config.quantize) if config.quantize else None
        )  # refused at once where it cannot run
        results[name] = evaluate_task(*asked)
        show_task(name, results[name])
        if small:
            same, score = equal_answers(results[name], small), small.score
            int8[name] = {"accuracy": score.accuracy, "n": score.n, "equal_answers": same}
            say(f"{name} in int8: {score.accuracy:.4f} of {score.n:,}, {same:.2%} of the answers are the same")
    seconds = time.monotonic() - began
    compared = {"tasks": int8} if int8 else {}
    result = EvalResult("chat_eval", subject.facts, results, chatcore=chatcore(results), int8=compared, seconds=seconds)
    result.finish(config.json, [sample for found in results.values() for sample in found.samples])


main = command(Config, run, __doc__)
