"""Choosing the next token of every row, each with its own settings and its own random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from nanochat.console import UserError


def generator(seed: int, sample: int) -> torch.Generator:
    """The random numbers of one sample: a function of (seed, sample) alone, the same on every device."""
    digest = hashlib.blake2b(f"{seed}:{sample}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


def sample(
    logits: Tensor, temperatures: Sequence[float], top_ks: Sequence[int], uniforms: Sequence[float]
) -> list[int]:
    """Next ids of the rows of `logits` (B, V); temperature 0 is greedy, top_k 0 is the whole vocabulary.

    `uniforms` are one draw in [0, 1) per row: a place on the row's cumulative distribution. So a row's choice
    depends on nothing but the row.
    """
    top = logits.max(dim=-1)
    if not top.values.isfinite().all():
        raise UserError("the model's logits are not finite", "Set NANOCHAT_DTYPE=float32, or take another checkpoint")
    chosen: list[int] = top.indices.tolist()
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0]
    for top_k in {top_ks[row] for row in drawn}:
        rows = [row for row in drawn if top_ks[row] == top_k]
        values = logits if len(rows) == len(logits) else logits[torch.tensor(rows, device=logits.device)]
        ids = None
        if 0 < top_k < logits.shape[-1]:
            values, ids = values.topk(top_k, dim=-1)
        temperature = logits.new_tensor([[temperatures[row]] for row in rows])
        place = logits.new_tensor([[uniforms[row]] for row in rows])
        # The largest value is subtracted first: divided by a tiny temperature it would become infinite.
        values = (values - values.amax(dim=-1, keepdim=True)) / temperature
        cumulative = values.softmax(dim=-1).cumsum(dim=-1)
        total = cumulative[:, -1:]  # 1 but for rounding; a place must stay below it to fall on a possible token
        place = torch.minimum(place * total, torch.nextafter(total, torch.zeros_like(total)))
        picked = torch.searchsorted(cumulative, place, right=True)
        picked = picked if ids is None else ids.gather(-1, picked)
        for row, id in zip(rows, picked[:, 0].tolist(), strict=True):
            chosen[row] = id
    return chosen
