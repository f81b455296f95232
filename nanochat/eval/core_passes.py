"""The answers of CORE through the model: rows in batches, what an item's rows share once, logits where they count.

Nothing follows the last id of a row, so it is not run: where choices are one id each, they share all there is to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.eval.core_prompts import Row, common_prefix
from nanochat.model.cache import KVCache

if TYPE_CHECKING:
    from nanochat.model import GPT

SHARED = 16  # ids that all rows of an item must begin with for a pass of their own


@dataclass(frozen=True)
class _Asked:
    """An item's rows and what is run for them: different inputs, and how many ids at their front are run once."""

    rows: Sequence[Row]
    inputs: list[list[int]]
    of_row: list[int]  # the input of every row
    shared: int

    @staticmethod
    def of(rows: Sequence[Row]) -> _Asked:
        ids = [row.ids[: row.end - 1] for row in rows]
        inputs = [x for i, x in enumerate(ids) if x not in ids[:i]]
        alike = min(common_prefix(inputs), min(row.start for row in rows) - 1)
        shared = alike if len(inputs) > 1 and alike >= SHARED else 0
        return _Asked(rows, inputs, [inputs.index(x) for x in ids], shared)

    @property
    def width(self) -> int:
        return max(map(len, self.inputs))


def answer_scores(model: GPT, questions: Sequence[Sequence[Row]], likely: bool, batch_tokens: int) -> list[list[float]]:
    """For every row of every question its answer's mean loss in nats, or with `likely` how many of its ids are not the
    likeliest; NaN or infinite where the logits are."""
    asked = [_Asked.of(rows) for rows in questions]
    scores: list[list[float]] = [[] for _ in asked]
    for together in (False, True):
        left = [n for n, x in enumerate(asked) if (x.shared > 0) == together]
        left.sort(key=lambda n: asked[n].width)
        while left:  # the longest first: memory fails early
            batch = [left.pop()]
            width, count = asked[batch[0]].width, len(asked[batch[0]].inputs)
            while left and (count + len(asked[left[-1]].inputs)) * width <= batch_tokens:
                batch.append(left.pop())
                count += len(asked[batch[-1]].inputs)
            logits, ids, sizes = _answer_logits(model, [asked[n] for n in batch])
            found = iter((_misses if likely else _mean_losses)(logits, ids, sizes))
            for n in batch:
                scores[n] = [next(found) for _ in asked[n].rows]
    return scores


def _answer_logits(model: GPT, asked: Sequence[_Asked]) -> tuple[Tensor, Tensor, list[int]]:
    """(logits (N, V), ids (N,)) of all answers, one row's after another, and how many each row has.

    Either all items have ids to share or none has.
    """
    device = model.device
    tails = _padded([ids[x.shared :] for x in asked for ids in x.inputs]).to(device)  # (B, T)
    cache = None
    if asked[0].shared:
        fronts = _padded([x.inputs[0][: x.shared] for x in asked]).to(device)
        whole = KVCache(model.config, len(asked), fronts.size(1) + tails.size(1), device, model.dtype)
        model.hidden(fronts, whole)
        # Padding is forgotten: what follows takes its place.
        whole.length = torch.tensor([x.shared for x in asked], device=device)
        whole.last = fronts[torch.arange(len(asked), device=device), whole.length - 1]
        cache = whole.select(torch.tensor([n for n, x in enumerate(asked) for _ in x.inputs], device=device))
    places: list[int] = []
    ids: list[int] = []
    sizes, first = [], 0
    for x in asked:
        for row, place in zip(x.rows, x.of_row, strict=True):
            start = (first + place) * tails.size(1) - x.shared
            places += range(start + row.start - 1, start + row.end - 1)
            ids += row.ids[row.start : row.end]
            sizes.append(row.end - row.start)
        first += len(x.inputs)
    h = model.hidden(tails, cache).flatten(0, 1)
    at = torch.tensor(places, dtype=torch.long, device=device)
    return model.logits(h[at]), torch.tensor(ids, device=device), sizes


def _padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    """(B, T), filled with zeros on the right: a causal model does not see them."""
    width = max(map(len, sequences))
    return torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in sequences])


def _mean_losses(logits: Tensor, ids: Tensor, sizes: list[int]) -> list[float]:
    losses = F.cross_entropy(logits, ids, reduction="none").cpu()  # once for all rows; not all devices have float64
    return [float(x.double().mean()) for x in losses.split(sizes)]


def _misses(logits: Tensor, ids: Tensor, sizes: list[int]) -> list[float]:
    top, at = logits.max(dim=-1)
    misses = (at != ids) + (top - top)  # NaN where the largest is not finite
    return [float(x.sum()) for x in misses.cpu().split(sizes)]
