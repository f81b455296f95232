"""Cross-entropy of a linear head with soft-capped logits, a chunk of positions at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nanochat.model.float8 import ACTIVATION, GRADIENT, MULTIPLE, product, to_float8
from nanochat.native import has_native, native_worker

CHUNK_ELEMENTS = 1 << 21  # logits held at once: 4 MiB in bfloat16
# On a GPU 256 MiB: its products need thousands of rows, and a compiled loss has separate code for every chunk.
GPU_CHUNK_ELEMENTS = 1 << 27


def chunk_rows(vocab_size: int, device: torch.device) -> int:
    """Positions in a chunk."""
    return max(1, (GPU_CHUNK_ELEMENTS if device.type == "cuda" else CHUNK_ELEMENTS) // vocab_size)


def softcap_logits(logits: Tensor, cap: float) -> Tensor:
    """Squash logits into (-cap, cap), in float32 or wider."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return cap * torch.tanh(wide / cap)


def _squash(logits: Tensor, cap: float) -> Tensor:
    """tanh(logits / cap), computed with exp, which vectorises better than tanh."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return 1 - 2 / (torch.exp(wide * (2 / cap)) + 1)


def slopes(logits: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """One pass over a chunk of logits (n, vocab): exp(z) * dz/dlogit, in their dtype, and the sums of exp(z), (n, 1),
    for soft-capped z. The cap bounds z, so that no maximum has to be subtracted.

    exp(15) overflows float16: there a second pass divides by the sums.
    """
    y = _squash(logits, cap)
    e = torch.exp(cap * y)
    sums = e.sum(-1, keepdim=True)
    if logits.dtype == torch.float16:
        e = e / sums
    return (e * (1 - y * y)).to(logits.dtype), sums


class _LinearCrossEntropy(torch.autograd.Function):
    """Sum of cross-entropies. Gradients are taken in the forward pass, chunk by chunk, so that the (N, vocab) logits
    never exist as a whole (the idea of https://arxiv.org/abs/2410.10989).

    The gradient of a logit is (p - 1 at the target) * slope. Off the target it is `slopes` over the sums; dividing the
    rows of h instead (the narrow factor of the products) saves a pass over the logits. At the target it is one number
    per row, in full precision: near p = 1 it would otherwise be all rounding error.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        weight: Tensor,
        targets: Tensor,
        cap: float,
        slopes: Callable[..., tuple[Tensor, Tensor]],
        size: int,
        *rounded: Tensor,
    ) -> Tensor:
        if rounded:
            return _in_float8(ctx, h, weight, targets, cap, slopes, size, *rounded)
        w = weight.to(h.dtype)
        wide = torch.promote_types(h.dtype, torch.float32)
        total = torch.zeros((), device=h.device, dtype=wide)
        grad_w = torch.zeros(w.shape, device=h.device, dtype=wide)
        grad_h = torch.empty_like(h)
        for hc, tc, out in zip(h.split(size), targets.split(size), grad_h.split(size), strict=True):
            counts, index = (tc >= 0).to(wide)[:, None], tc.clamp_min(0)
            logits = F.linear(hc, w)
            slope, sums = slopes(logits, cap)
            at_target = _squash(logits.gather(1, index[:, None]), cap)
            slope.scatter_(1, index[:, None], 0)
            # Not in place: compiled by torch 2.11, a total changed in place would have no gradient.
            total = total + ((sums.log() - cap * at_target) * counts).sum()
            share = counts if h.dtype == torch.float16 else counts / sums
            pull = (torch.exp(cap * at_target) / sums - 1) * (1 - at_target * at_target) * counts
            out.copy_((slope @ w) * share + pull * w[index])
            grad_w += slope.T @ (hc * share).to(h.dtype)
            grad_w.index_add_(0, index, pull * hc)
        ctx.save_for_backward(grad_h, grad_w)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_w = ctx.saved_tensors
        (scale,) = grads
        # In place, so only once: autograd refuses a second backward pass through a changed tensor.
        none = (None,) * (len(ctx.needs_input_grad) - 2)
        return grad_h * scale.to(grad_h.dtype), grad_w.mul_(scale).to(ctx.weight_dtype), *none


class _NativeCrossEntropy(torch.autograd.Function):
    """The same in native code (csrc/native/head.cpp)."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
        grad_h, grad_w = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (h, weight))
        inputs = [x.detach().contiguous().numpy() for x in (h, weight, targets)]
        total = native_worker("Head").loss(*inputs, cap, grad_h.numpy(), grad_w.numpy())
        ctx.save_for_backward(grad_h, grad_w)
        ctx.weight_dtype = weight.dtype
        return h.new_tensor(total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _LinearCrossEntropy.backward(ctx, *grads)


def _in_float8(
    ctx: Any,
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    cap: float,
    slopes: Callable[..., tuple[Tensor, Tensor]],
    size: int,
    by_rows: Tensor,
    by_columns: Tensor,
    scale: Tensor,
) -> Tensor:
    """The same with the three products in float8, and the weight as `Rounded` has it.

    Slopes are divided by their sums before they are rounded: so none is above 1, a scale is known without looking for
    the largest, and what small ones lose is below 2^-31.
    """
    wide = torch.promote_types(h.dtype, torch.float32)
    total = torch.zeros((), device=h.device, dtype=wide)
    grad_w = torch.zeros(weight.shape, device=h.device, dtype=wide)
    grad_h = torch.empty_like(h)
    top = torch.finfo(GRADIENT).max
    unit = torch.full((), 1 / top, device=h.device)
    for hc, tc, out in zip(h.split(size), targets.split(size), grad_h.split(size), strict=True):
        counts, index = (tc >= 0).to(wide)[:, None], tc.clamp_min(0)
        h8, scale_h = to_float8(hc, ACTIVATION)
        logits = product(h8, by_rows.t(), scale_h, scale, h.dtype, fast=True)
        slope, sums = slopes(logits, cap)
        at_target = _squash(logits.gather(1, index[:, None]), cap)
        slope.scatter_(1, index[:, None], 0)
        total = total + ((sums.log() - cap * at_target) * counts).sum()
        share = counts if h.dtype == torch.float16 else counts / sums
        p8 = slope.mul_((share * top).to(slope.dtype)).clamp_max_(top).to(GRADIENT)
        pull = (torch.exp(cap * at_target) / sums - 1) * (1 - at_target * at_target) * counts
        out.copy_(product(p8, by_columns.t(), unit, scale, h.dtype, fast=False) + pull * weight[index].to(h.dtype))
        grad_w += product(p8.t(), h8, unit, scale_h, h.dtype, fast=False)
        grad_w.index_add_(0, index, pull * hc)
    ctx.save_for_backward(grad_h, grad_w)
    ctx.weight_dtype = weight.dtype
    return total


def linear_cross_entropy(
    h: Tensor,
    weight: Tensor,
    targets: Tensor,
    cap: float,
    slopes: Callable[..., tuple[Tensor, Tensor]] = slopes,
    chunk: int = 0,
    rounded: tuple[Tensor, Tensor, Tensor] | None = None,
    in_native: bool = False,
) -> Tensor:
    """Sum over targets >= 0 of the cross-entropy in nats; h (N, width), weight (vocab, width), targets (N,).

    slopes: the function above, or a compiled one. chunk: positions whose logits exist at once; 0: as many as suit the
    device. rounded: the weight in float8 (`model/float8.py`), to use that. in_native: in native code, where
    there is one for this.
    """
    # It has no e^z that is infinite. With larger caps a float32 may be, and has to be noticed.
    fits = in_native and rounded is None and cap <= 80 and not torch.compiler.is_compiling()
    if fits and has_native(h.dtype, h.device):
        return _NativeCrossEntropy.apply(h, weight.to(h.dtype), targets, cap)
    size = chunk or chunk_rows(weight.size(0), h.device)
    if rounded is None:
        return _LinearCrossEntropy.apply(h, weight, targets, cap, slopes, size)
    size = max(MULTIPLE, size // MULTIPLE * MULTIPLE)
    return _LinearCrossEntropy.apply(h, weight, targets, cap, slopes, size, *rounded)


def token_losses(h: Tensor, weight: Tensor, targets: Tensor, cap: float) -> Tensor:
    """Cross-entropy in nats of each target, (N,), 0 where it is -1; for evaluation, in chunks too."""
    w = weight.to(h.dtype)
    size = chunk_rows(w.size(0), h.device)
    parts = [
        F.cross_entropy(softcap_logits(F.linear(hc, w), cap), tc, ignore_index=-1, reduction="none")
        for hc, tc in zip(h.split(size), targets.split(size), strict=True)
    ]
    return torch.cat(parts)
