"""Choosing the next token of every row, each with its own settings and its own place on its distribution.

In this order: the repetition penalty, the penalties of what may not come here, temperature, top-k, top-p, min-p. Where
only the largest are kept, the smaller id wins between equal values. The place is one on the sum of what is left, in the
order of ids, so a row's choice depends on nothing but the row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from nanochat.console import UserError
from nanochat.inference.request import Likely
from nanochat.native import native

SCORED = 128  # rows at once, since double precision takes much memory
_LARGEST = torch.finfo(torch.float32).max


@dataclass(slots=True)
class Draw:
    """How one row is drawn."""

    temperature: float  # 0: the largest value, and nothing else counts but the two kinds of penalties
    top_k: int  # 0: the whole vocabulary
    top_p: float  # the fewest tokens that have this share of what top_k left; 1: all of it
    min_p: float  # tokens at least this likely, compared with the likeliest; 0: all
    repetition_penalty: float  # divides positive logits of tokens that were seen, multiplies negative ones; 1: none
    seen: Sequence[int]  # ids of prompt and answer so far; read where repetition_penalty is not 1
    penalties: Tensor  # (V,) float32 on the logits' device: 0, or -inf at tokens that may not come here
    uniform: float  # [0, 1): the place on the cumulative distribution
    logprobs: int | None = None  # how many of the likeliest tokens are told, besides the chosen one; None: nothing


@dataclass(slots=True)
class Choice:
    """A row's next token. Log-probabilities are the model's own: before everything but `penalties`."""

    id: int
    logprob: float | None = None
    top: list[tuple[int, float]] = field(default_factory=list)  # (id, logprob), likeliest first, no impossible ones


def choose(logits: Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """The next token of each row of `logits` (n, V). UserError where one has nan, inf, or no possible token."""
    if logits.device.type == "mps":  # which has no float64
        logits, draws = logits.cpu(), [replace(draw, penalties=draw.penalties.cpu()) for draw in draws]
    module = native()
    if module is None or logits.dtype is not torch.float32 or logits.device.type != "cpu":
        return choose_by_torch(logits, draws)
    choices = []
    for chosen in module.choose(logits.contiguous(), list(draws)):
        choice = Choice(*chosen) if type(chosen) is tuple else Choice(chosen)
        if choice.id < 0:
            raise _not_finite()
        choices.append(choice)
    return choices


def score(logits: Tensor, ids: Sequence[int], vocab_size: int, told: int) -> list[tuple[float, Likely]]:
    """The log-probability of each row's id among the first `vocab_size` of `logits` (n, V), and the `told` likeliest.

    UserError where a row has nan or inf.
    """
    module = native()
    scored: list[tuple[float, Likely] | None]
    if module is None or logits.dtype is not torch.float32 or logits.device.type != "cpu":
        pieces = zip(logits.split(SCORED), torch.tensor(ids).split(SCORED), strict=True)
        scored = [one for rows, some in pieces for one in _scored_by_torch(rows[:, :vocab_size], some, told)]
    else:
        scored = module.score(logits.contiguous(), list(ids), vocab_size, told)
    if None in scored:
        raise _not_finite()
    return cast("list[tuple[float, Likely]]", scored)


def _scored_by_torch(logits: Tensor, ids: Tensor, told: int) -> list[tuple[float, Likely] | None]:
    """As `score`, of all columns; None for a row that has nan or inf."""
    if logits.device.type == "mps":
        logits = logits.cpu()
    logits, told = logits.float() + 0.0, min(told, logits.shape[-1])  # -0.0, which equals 0.0, becomes it
    logprobs = logits.double().log_softmax(dim=-1)
    likely = _largest(logits, told)
    finite = logits.amax(dim=-1, keepdim=True).isfinite().double()
    own = logprobs.gather(-1, ids.to(logits.device)[:, None])
    numbers = torch.cat([finite, own, likely.double(), logprobs.gather(-1, likely)], dim=-1).tolist()
    return [
        (row[1], [(int(id), logprob) for id, logprob in zip(row[2 : 2 + told], row[2 + told :], strict=True)])
        if row[0]
        else None
        for row in numbers
    ]


def choose_by_torch(logits: Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """`choose` in torch, on any device. The host waits for the device once, for the result."""
    if len(draws) != len(logits):
        raise ValueError("there must be one draw for each row")
    rows = _Rows(logits, draws)
    ids = rows.values.argmax(dim=-1)  # of equal ones the first
    # Only the whole vocabulary without top_p needs no order.
    groups: dict[int | None, list[int]] = {}
    for row, draw in enumerate(draws):
        if draw.temperature > 0:
            some = 0 < draw.top_k < logits.shape[-1]
            count = draw.top_k if some else logits.shape[-1] if draw.top_p < 1 else None
            groups.setdefault(count, []).append(row)
    for count, group in groups.items():
        where = rows.on_device(group)
        ids = ids.index_copy(0, where, rows.drawn(where, count, ids))

    asked = [row for row, draw in enumerate(draws) if draw.logprobs is not None]
    told = min(max((draws[row].logprobs or 0 for row in asked), default=0), logits.shape[-1])
    results = [rows.own.amax(dim=-1).isfinite().double(), ids.double()]
    if asked:
        results += rows.logprobs(rows.on_device(asked), ids, told)
    numbers = torch.cat([result.flatten() for result in results]).tolist()  # the one time that the host waits
    n = len(draws)
    if not all(numbers[:n]):
        raise _not_finite()
    choices = [Choice(int(id)) for id in numbers[n : 2 * n]]
    for i, row in enumerate(asked):
        choices[row].logprob = numbers[2 * n + i]
        at = 2 * n + len(asked) + 2 * told * i
        pairs = zip(numbers[at : at + told], numbers[at + told : at + 2 * told], strict=True)
        choices[row].top = [(int(id), logprob) for id, logprob in pairs if logprob > -math.inf][: draws[row].logprobs]
    return choices


def _not_finite() -> UserError:
    return UserError("the model's logits are not finite", "Set NANOCHAT_DTYPE=float32, or take another checkpoint")


class _Rows:
    """`own`: (n, V) float32 logits with what may not come at -inf. `values`: the same after the repetition penalty."""

    def __init__(self, logits: Tensor, draws: Sequence[Draw]) -> None:
        self.device = logits.device
        logits = logits.float()
        penalties = torch.stack([draw.penalties for draw in draws])
        self.own = self.values = logits + penalties
        seen = {row: set(draw.seen) for row, draw in enumerate(draws) if draw.repetition_penalty != 1 and draw.seen}
        if seen:
            id = self.on_device([id for ids in seen.values() for id in ids])
            row = self.on_device([row for row, ids in seen.items() for _ in ids])
            by = self.on_device([draw.repetition_penalty for draw in draws], torch.float64)[row]
            value = logits[row, id].double()
            bounded = torch.where(value > 0, value / by, value * by).clamp(-_LARGEST, _LARGEST)
            value = torch.where(value.isfinite(), bounded, value).float()
            self.values = logits.index_put((row, id), value) + penalties
        self.settings = self.on_device(
            [
                [
                    draw.temperature,
                    draw.top_p if draw.top_p < 1 else math.inf,
                    math.log(draw.min_p) if draw.min_p > 0 else -math.inf,
                    draw.uniform,
                ]
                for draw in draws
            ],
            torch.float64,
        )

    def on_device(self, numbers: Sequence, dtype: torch.dtype = torch.int64) -> Tensor:
        """Sent without waiting."""
        made = torch.tensor(numbers, dtype=dtype, pin_memory=self.device.type == "cuda")
        return made.to(self.device, non_blocking=True)

    def drawn(self, where: Tensor, count: int | None, likeliest: Tensor) -> Tensor:
        """Ids (m,) drawn for the rows `where` (m,), from their `count` largest values; None: from all, in no order."""
        values = self.values[where]
        temperature, top_p, min_p, uniform = self.settings[where, :, None].unbind(1)
        most = values.amax(dim=-1, keepdim=True).double()
        ids = None
        if count is not None:
            ids = _largest(values, count)
            values = values.gather(-1, ids)
        weights = ((values.double() - most) / temperature).exp()  # the largest is 1: no temperature makes that overflow
        if count is not None:
            total = weights.cumsum(dim=-1)
            likelier = torch.nn.functional.pad(total[:, :-1], (1, 0))
            weights = weights * ((likelier < top_p * total[:, -1:]) | (likelier == 0))
        weights = weights * (values.double() >= most + temperature * min_p)
        if ids is not None:
            ids, order = ids.sort(dim=-1)
            weights = weights.gather(-1, order)
        total = weights.cumsum(dim=-1)
        whole = total[:, -1:]
        place = torch.minimum(uniform * whole, torch.nextafter(whole, torch.zeros_like(whole)))
        # A sum in parallel may differ by rounding from one impossible token to the next.
        hit = (total > place) & (weights > 0)
        first = hit.byte().argmax(dim=-1, keepdim=True)
        first = first if ids is None else ids.gather(-1, first)
        return torch.where(hit.any(dim=-1), first[:, 0], likeliest[where])

    def logprobs(self, where: Tensor, chosen: Tensor, told: int) -> list[Tensor]:
        """Of the rows `where` (m,): the chosen ids' (m,), then the likeliest ids and theirs (m, 2 told)."""
        own = self.own[where]
        logprobs = own.double().log_softmax(dim=-1)
        ids = _largest(own, told)
        return [logprobs.gather(-1, chosen[where, None]), torch.cat([ids.double(), logprobs.gather(-1, ids)], dim=-1)]


def _largest(values: Tensor, count: int) -> Tensor:
    """Ids (m, count) of the largest values (m, V) float32, largest first and of equal ones the smaller id first."""
    bits = values.contiguous().view(torch.int32)
    rank = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()  # the same order, in whole numbers
    ids = torch.arange(values.shape[-1], device=values.device)
    # One number for value and id, so that no two are equal: topk promises nothing about those.
    return ((rank << 32) - ids).topk(count, dim=-1).values.neg().bitwise_and_(0xFFFFFFFF)


def generator(seed: int, sample: int) -> torch.Generator:
    """The random numbers of one sample: a function of (seed, sample) alone, the same on every device."""
    digest = hashlib.blake2b(f"{seed}:{sample}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
