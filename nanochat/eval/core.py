"""CORE, the base model's score of the DCLM paper: 22 tasks with examples in the prompt, guessers at 0."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from nanochat.console import Progress, UserError, say
from nanochat.eval.core_prompts import CoreTask, Item, Row, examples, rows
from nanochat.eval.results import Score, TaskResult, centered
from nanochat.machine import ranks

if TYPE_CHECKING:
    from nanochat.model import GPT
    from nanochat.tokenizer import Tokenizer

BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
IGNORE = -1
WINDOW = 128  # items rendered at a time, so that rows of about one length meet in a batch


def missing_bundle(folder: Path) -> str | None:
    """One line on why CORE cannot be measured and how to get its data, or None when the bundle is there."""
    if (folder / "core.yaml").is_file():
        return None
    remedy = f"Unzip {BUNDLE_URL} there, or set NANOCHAT_EVAL_BUNDLE to it."
    return f"CORE is skipped: no evaluation bundle in {folder}. {remedy}"


def read_tasks(bundle: Path) -> list[CoreTask]:
    """The tasks of core.yaml with their random baselines from eval_meta_data.csv."""
    import yaml

    try:
        with open(bundle / "eval_meta_data.csv", encoding="utf-8", newline="") as f:
            baselines = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in csv.DictReader(f)}
        listed = yaml.safe_load((bundle / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"]
        return [
            CoreTask(
                label=entry["label"],
                kind=entry["icl_task_type"],
                shots=entry["num_fewshot"][0],
                delimiter=entry.get("continuation_delimiter", " "),
                file=entry["dataset_uri"],
                random=baselines[entry["label"]],
            )
            for entry in listed
        ]
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError, ValueError) as error:
        what = f"no entry {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise UserError(
            f"the evaluation bundle in {bundle} cannot be read: {what}", f"Unzip {BUNDLE_URL} again"
        ) from None


def read_items(bundle: Path, task: CoreTask, limit: int | None = None) -> list[Item]:
    """The task's items in the fixed shuffled order, at most `limit` of them."""
    path = bundle / "eval_data" / task.file
    try:
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", f"Unzip {BUNDLE_URL} again") from None
    if not items:
        raise UserError(f"{path} holds no items", f"Unzip {BUNDLE_URL} again")
    random.Random(1337).shuffle(items)
    return items[:limit]


def evaluate_core(
    model: GPT, tokenizer: Tokenizer, bundle: Path, max_per_task: int | None = None, batch_tokens: int = 16384
) -> tuple[float, dict[str, TaskResult]]:
    """CORE and every task's result. batch_tokens: ids per forward pass, padding included."""
    data = {task: read_items(bundle, task, max_per_task) for task in read_tasks(bundle)}
    results: dict[str, TaskResult] = {}
    with Progress(sum(map(len, data.values())), "CORE", unit="questions") as bar:
        for task, items in data.items():
            right = evaluate_items(model, tokenizer, task, items, batch_tokens)
            score = Score(sum(right), len(right))
            results[task.label] = TaskResult(score, centered=centered(score.accuracy, task.random))
            bar.advance(len(items), task=task.label, CORE=f"{mean_centered(results):.4f}")
    return mean_centered(results), results


def mean_centered(results: Mapping[str, TaskResult]) -> float:
    return sum(r.centered or 0.0 for r in results.values()) / len(results)


def show(core: float, results: Mapping[str, TaskResult]) -> None:
    """A line per task, and CORE."""
    width = max(map(len, results))
    say(f"{'task':<{width}}  {'n':>6}  {'accuracy':>8}  {'centered':>8}")
    for label, result in results.items():
        score = result.score
        say(f"{label:<{width}}  {score.n:>6}  {score.accuracy:>8.4f}  {result.centered or 0.0:>8.4f}")
    say(f"CORE: {core:.4f}")


@torch.inference_mode()
def evaluate_items(
    model: GPT, tokenizer: Tokenizer, task: CoreTask, data: Sequence[Item], batch_tokens: int = 16384
) -> list[bool]:
    """Right or wrong for every item, in order; the ranks share the work, and each gets all answers."""
    me = ranks()
    mine = range(me.rank, len(data), me.world)
    right: dict[int, bool] = {}
    for first in range(0, len(mine), WINDOW):
        some = mine[first : first + WINDOW]
        asked = {i: rows(task, data[i], examples(data, i, task.shots), tokenizer, model.config.seq_len) for i in some}
        scored = _score(model, [row for of_item in asked.values() for row in of_item], task, batch_tokens)
        for i, of_item in asked.items():
            scores = [next(scored) for _ in of_item]
            right[i] = scores == [0.0] if task.kind == "language_modeling" else lowest(scores) == data[i]["gold"]
    if me.world > 1:
        shares: list[dict[int, bool]] = [{}] * me.world
        dist.all_gather_object(shares, right)
        right = {i: good for share in shares for i, good in share.items()}
    return [right[i] for i in range(len(data))]


def lowest(losses: Sequence[float]) -> int:
    """The place of the smallest loss.

    NaN (a choice without ids of its own) is never smaller than another, nor is another smaller than
    it: upstream decides so, and scores must stay comparable.
    """
    best = 0
    for place, loss in enumerate(losses):
        if loss < losses[best]:
            best = place
    return best


def _score(model: GPT, asked: Sequence[Row], task: CoreTask, batch_tokens: int) -> Iterator[float]:
    """For every row the mean loss of its answer, or for language modeling the number of ids not predicted."""
    measure = _misses if task.kind == "language_modeling" else _mean_losses
    scores = [math.nan] * len(asked)
    order = sorted(range(len(asked)), key=lambda n: -len(asked[n].ids))  # the longest first: memory fails early
    while order:
        size = max(1, batch_tokens // len(asked[order[0]].ids))
        batch, order = order[:size], order[size:]
        for n, value in zip(batch, measure(model, [asked[n] for n in batch]), strict=True):
            scores[n] = value
    return iter(scores)


def _answer_logits(model: GPT, batch: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """(logits (N, V), ids (N,)) of all answers of the batch, one row's after another."""
    width = max(len(row.ids) for row in batch)
    device = model.device
    # Padding on the right: a causal model does not see it.
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in batch], device=device)  # (B, T)
    places = [n * width + i for n, row in enumerate(batch) for i in range(row.start, row.end)]
    at = torch.tensor(places, dtype=torch.long, device=device)
    return model.logits(model.hidden(ids).flatten(0, 1)[at - 1]), ids.flatten()[at]


def _mean_losses(model: GPT, batch: Sequence[Row]) -> list[float]:
    """Mean loss in nats over each row's answer; NaN where it has no ids."""
    logits, ids = _answer_logits(model, batch)
    losses = torch.split(F.cross_entropy(logits, ids, reduction="none"), [row.end - row.start for row in batch])
    return [float(x.double().mean()) for x in losses]


def _misses(model: GPT, batch: Sequence[Row]) -> list[float]:
    """How many ids of each row's answer are not the likeliest at their place."""
    logits, ids = _answer_logits(model, batch)
    missed = torch.split(logits.argmax(dim=-1) != ids, [row.end - row.start for row in batch])
    return [float(x.sum()) for x in missed]
