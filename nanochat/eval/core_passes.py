"""Score CORE's answers with a model: questions in batches, ids that their rows share once, logits where they count.

Nothing follows the last id of a row, so it is not run: if each choice is one id, the choices share all that is run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.eval.core_model import CoreModel, Group
from nanochat.eval.core_prompts import Row, common_prefix

SHARED = 16  # fewest ids of a common front that gets a pass of its own


def answer_scores(
    model: CoreModel, questions: Sequence[Sequence[Row]], likely: bool, batch_tokens: int
) -> list[list[float]]:
    """For every row of every question its answer's mean loss in nats, or with `likely` how many of its ids are not the
    likeliest; NaN or infinite where the logits are.

    batch_tokens: ids run at once, padding included.
    """
    groups = [_group(rows) for rows in questions]
    scores: list[list[float]] = [[] for _ in groups]
    for together in (False, True):
        left = [n for n, group in enumerate(groups) if bool(group.front) == together]
        left.sort(key=lambda n: groups[n].width)
        while left:  # the longest first, so that memory runs out early if at all
            batch = [left.pop()]
            width, count = groups[batch[0]].width, len(groups[batch[0]].tails)
            while left and (count + len(groups[left[-1]].tails)) * width <= batch_tokens:
                batch.append(left.pop())
                count += len(groups[batch[-1]].tails)
            logits = model.answer_logits([groups[n] for n in batch])  # (N, V)
            answers = [row.ids[row.start : row.end] for n in batch for row in questions[n]]
            ids = torch.tensor([x for answer in answers for x in answer], device=logits.device)  # (N,)
            found = iter((_misses if likely else _mean_losses)(logits, ids, [len(answer) for answer in answers]))
            for n in batch:
                scores[n] = [next(found) for _ in questions[n]]
    return scores


def _group(rows: Sequence[Row]) -> Group:
    """What to run for a question's rows: each different input, and the front that the inputs share once."""
    ids = [row.ids[: row.end - 1] for row in rows]
    inputs = [x for i, x in enumerate(ids) if x not in ids[:i]]
    alike = min(common_prefix(inputs), min(row.start for row in rows) - 1)
    shared = alike if len(inputs) > 1 and alike >= SHARED else 0
    before = shared + 1  # an id's logits are those of the place before it
    spans = [(inputs.index(x), row.start - before, row.end - before) for x, row in zip(ids, rows, strict=True)]
    return Group(inputs[0][:shared], [x[shared:] for x in inputs], spans)


def _mean_losses(logits: Tensor, ids: Tensor, sizes: list[int]) -> list[float]:
    """Each answer's mean loss in nats, from logits (N, V) and ids (N,) in answers of these sizes."""
    losses = F.cross_entropy(logits, ids, reduction="none").cpu()  # once for all rows; not all devices have float64
    return [float(x.double().mean()) for x in losses.split(sizes)]


def _misses(logits: Tensor, ids: Tensor, sizes: list[int]) -> list[float]:
    """Likewise, how many of each answer's ids are not the likeliest."""
    top, at = logits.max(dim=-1)
    misses = (at != ids) + (top - top)  # NaN where the largest is not finite
    return [float(x.sum()) for x in misses.cpu().split(sizes)]
