"""Matrices in eight bits: each row of a matrix (an output channel) becomes int8 numbers and one scale.

The matrices of the blocks and the head are rounded, which are all that a decoding step reads from end to end. Token
tables are looked up, not read, and gates and scalars are too small to matter: they stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from nanochat.console import UserError

if TYPE_CHECKING:
    from nanochat.model import GPT

LARGEST = 127  # -128 is not used, so that a weight and its negative round alike

Quantize = Literal["", "int8"]


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K) -> int8 (N, K) and float32 scales (N,) whose product is the weight, rounded.

    A row's scale is its largest absolute value / 127; quotients are rounded half to even. A row of zeros has scale 0.
    UserError for weights that are not finite.
    """
    weight = weight.detach().float()
    scales = weight.abs().amax(dim=1) / LARGEST
    if not scales.isfinite().all():
        raise UserError("the weights hold numbers that are not finite", "Take another checkpoint")
    steps = torch.where(scales > 0, scales, 1.0)[:, None]
    return (weight / steps).round_().clamp_(-LARGEST, LARGEST).to(torch.int8), scales


def matrices(model: GPT) -> Iterator[tuple[str, Tensor]]:
    """Names and weights (N, K) of the matrices that are rounded."""
    for number, block in enumerate(model.layers):
        for name in ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.up", "mlp.down"):
            yield f"blocks.{number}.{name}.weight", block.get_parameter(f"{name}.weight")
    yield "head.weight", model.head.weight


def ready(model: GPT, quantize: Quantize = "") -> GPT:
    """The model with its weights in the compute dtype, so that decoding, which reads them all, need not cast them.

    Those that become eight bits stay as they are: rounded once, they are what `rounded` makes of them.
    """
    kept = {name for name, _ in matrices(model)} if quantize else ()
    for name, p in model.named_parameters():
        if name not in kept:
            p.data = p.data.to(model.dtype)
    return model


@torch.no_grad()
def rounded(model: GPT) -> GPT:
    """A copy whose matrices are what eight bits keep of them, in float32: what `--quantize int8` computes, in plain
    torch."""
    kept = copy.deepcopy(model).requires_grad_(False)
    for name, weight in matrices(model):
        whole, scales = quantize_rows(weight)
        kept.get_parameter(name).data = whole.float().mul_(scales[:, None])
    return kept
