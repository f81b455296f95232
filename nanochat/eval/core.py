"""CORE, the base model's score of the DCLM paper: 22 tasks with examples in the prompt, guessers at 0."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from nanochat.console import Progress, UserError, say
from nanochat.eval.core_prompts import CoreTask, Item, Row, common_prefix, examples, rows
from nanochat.eval.results import Score, TaskResult, centered
from nanochat.machine import ranks
from nanochat.model.cache import KVCache

if TYPE_CHECKING:
    from nanochat.model import GPT
    from nanochat.tokenizer import Tokenizer

BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
IGNORE = -1
SHARED = 16  # ids that all rows of an item must begin with for a pass of their own
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
        for i, scores in zip(some, _score(model, list(asked.values()), task, batch_tokens), strict=True):
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


def _score(model: GPT, asked: Sequence[Sequence[Row]], task: CoreTask, batch_tokens: int) -> list[list[float]]:
    """For every row of every item the mean loss of its answer, or for language modeling the ids not predicted."""
    measure = _misses if task.kind == "language_modeling" else _mean_losses
    scores: list[list[float]] = [[] for _ in asked]
    shared = [_shared(rows) for rows in asked]
    for together in (False, True):
        left = [n for n in range(len(asked)) if (shared[n] > 0) == together]
        left.sort(key=lambda n: max(len(row.ids) for row in asked[n]))
        while left:  # the longest first: memory fails early
            batch = [left.pop()]
            rows, width = len(asked[batch[0]]), max(len(row.ids) for row in asked[batch[0]])
            while left and (rows + len(asked[left[-1]])) * width <= batch_tokens:
                batch.append(left.pop())
                rows += len(asked[batch[-1]])
            found = iter(measure(*_answer_logits(model, [asked[n] for n in batch], [shared[n] for n in batch])))
            for n in batch:
                scores[n] = [next(found) for _ in asked[n]]
    return scores


def _shared(rows: Sequence[Row]) -> int:
    """How many ids at the front all rows have alike and need no logits of; 0 when it is too few to be worth a pass."""
    alike = min(common_prefix([row.ids for row in rows]), min(row.start for row in rows) - 1)
    return alike if len(rows) > 1 and alike >= SHARED else 0


def _answer_logits(
    model: GPT, asked: Sequence[Sequence[Row]], shared: Sequence[int]
) -> tuple[Tensor, Tensor, list[int]]:
    """(logits (N, V), ids (N,)) of all answers, one row's after another, and how many each row has.

    shared: the ids at the front of each item's rows that go through the model once (all 0, or none).
    """
    device = model.device
    rows = [row for of_item in asked for row in of_item]
    seen = [count for of_item, count in zip(asked, shared, strict=True) for _ in of_item]
    tails = _padded([row.ids[count:] for row, count in zip(rows, seen, strict=True)]).to(device)  # (B, T)
    cache = None
    if shared[0]:
        fronts = _padded([of_item[0].ids[:count] for of_item, count in zip(asked, shared, strict=True)]).to(device)
        whole = KVCache(model.config, len(asked), fronts.size(1) + tails.size(1), device, model.dtype)
        model.hidden(fronts, whole)
        # Padding is forgotten: what follows takes its place.
        whole.length = torch.tensor(shared, device=device)
        whole.last = fronts[torch.arange(len(asked), device=device), whole.length - 1]
        cache = whole.select(torch.tensor([n for n, of_item in enumerate(asked) for _ in of_item], device=device))
    width = tails.size(1)
    places = [
        n * width + i - count
        for n, (row, count) in enumerate(zip(rows, seen, strict=True))
        for i in range(row.start, row.end)
    ]
    at = torch.tensor(places, dtype=torch.long, device=device)
    logits = model.logits(model.hidden(tails, cache).flatten(0, 1)[at - 1])
    return logits, tails.flatten()[at], [row.end - row.start for row in rows]


def _padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    """(B, T), filled with zeros on the right: a causal model does not see them."""
    width = max(map(len, sequences))
    return torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in sequences])


def _mean_losses(logits: Tensor, ids: Tensor, sizes: list[int]) -> list[float]:
    """Mean loss in nats over each row's answer; NaN where it has no ids."""
    losses = torch.split(F.cross_entropy(logits, ids, reduction="none"), sizes)
    return [float(x.double().mean()) for x in losses]


def _misses(logits: Tensor, ids: Tensor, sizes: list[int]) -> list[float]:
    """How many ids of each row's answer are not the likeliest at their place."""
    return [float(x.sum()) for x in torch.split(logits.argmax(dim=-1) != ids, sizes)]
