"""Cross-entropy of a linear head with soft-capped logits, a chunk of positions at a time."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24  # logits held at once: 64 MiB in float32


def softcap_logits(logits: Tensor, cap: float) -> Tensor:
    """Squash logits into (-cap, cap), in float32 or wider."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return cap * torch.tanh(wide / cap)


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies. Gradients are taken in the forward pass, chunk by chunk, so that the (N, vocab) logits
    never exist as a whole (the idea of https://arxiv.org/abs/2410.10989)."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        w = weight.to(h.dtype)
        size = max(1, CHUNK_ELEMENTS // w.size(0))
        wide = torch.promote_types(h.dtype, torch.float32)
        total = torch.zeros((), device=h.device, dtype=wide)
        grad_w = torch.zeros(w.shape, device=h.device, dtype=wide)
        grads_h = []
        for hc, tc in zip(h.split(size), targets.split(size), strict=True):
            counts = (tc >= 0)[:, None]
            index = tc.clamp_min(0)[:, None]
            z = softcap_logits(F.linear(hc, w), cap)
            lse = z.logsumexp(-1, keepdim=True)
            total = total + ((lse - z.gather(1, index)) * counts).sum()
            p = (z - lse).exp()
            onehot = torch.arange(w.size(0), device=h.device)[None] == index
            g = ((p - onehot.to(p.dtype)) * (1 - (z / cap).square()) * counts).to(h.dtype)
            grads_h.append(g @ w)
            grad_w = grad_w + (g.T @ hc).to(wide)
        ctx.save_for_backward(torch.cat(grads_h), grad_w)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_h, grad_w = ctx.saved_tensors
        (scale,) = grads
        return grad_h * scale.to(grad_h.dtype), (grad_w * scale).to(ctx.weight_dtype), None, None


def linear_cross_entropy(h: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Sum over targets >= 0 of the cross-entropy in nats; h (N, width), weight (vocab, width), targets (N,)."""
    return _LinearCrossEntropy.apply(h, weight, targets, cap)


def token_losses(h: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Cross-entropy in nats of each target, (N,), 0 where it is -1; for evaluation, in chunks too."""
    w = weight.to(h.dtype)
    size = max(1, CHUNK_ELEMENTS // w.size(0))
    parts = [
        F.cross_entropy(softcap_logits(F.linear(hc, w), cap), tc, ignore_index=-1, reduction="none")
        for hc, tc in zip(h.split(size), targets.split(size), strict=True)
    ]
    return torch.cat(parts)
