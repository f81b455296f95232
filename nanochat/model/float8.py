"""Matrix products in float8 with one scale per tensor (https://arxiv.org/abs/2209.05433).

Forward inputs are e4m3 (more digits), gradients e5m2 (more range); results and weights keep their dtype. Weights are
rounded once a step, everything else in every product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nanochat.console import UserError

ACTIVATION, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
SMALLEST = 128  # matrices with a side below this lose more by converting than they gain
MULTIPLE = 16  # every side of a product must be a multiple of this


def to_float8(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in float8, scaled to float8's largest number, and the float32 scale () by which to multiply it back."""
    largest = torch.finfo(dtype).max
    scale = x.detach().abs().amax().float().clamp_min(1e-12) / largest
    return (x.float() / scale).clamp(-largest, largest).to(dtype), scale


def product(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, dtype: torch.dtype, fast: bool) -> Tensor:
    """a (m, k) times b (k, n), both float8, in `dtype`. fast: sum in fewer digits, enough for the forward pass."""
    # The kernels read a by rows and b by columns.
    a, b = a.contiguous(), b.t().contiguous().t()
    y: Tensor = torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=dtype, use_fast_accum=fast)
    return y


class Rounded:
    """A weight (out, in) in float8, as the two products with it read it: by rows, and by columns."""

    def __init__(self, weight: Tensor) -> None:
        self.by_rows = torch.empty_like(weight, dtype=ACTIVATION, memory_format=torch.contiguous_format)
        self.by_columns = torch.empty_like(self.by_rows.t(), memory_format=torch.contiguous_format)  # (in, out)
        self.scale = torch.ones((), device=weight.device)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.by_rows, self.by_columns, self.scale


@torch.no_grad()
def round_weights(weights: Sequence[Tensor], rounded: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
    """Round all weights into tensors that are there, which compiled code has already seen."""
    largest = torch.finfo(ACTIVATION).max
    scales = torch.stack(torch._foreach_norm(list(weights), float("inf"))).float().clamp_min(1e-12) / largest
    for weight, scale, (by_rows, by_columns, kept) in zip(weights, scales.unbind(), rounded, strict=True):
        kept.copy_(scale)
        by_rows.copy_((weight / scale).clamp_(-largest, largest))
        by_columns.copy_(by_rows.t())


class _Float8Linear(torch.autograd.Function):
    """x (n, in), weight (out, in) and it as `Rounded` -> (n, out). Keeps x in float8: half of bfloat16's memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, by_rows: Tensor, by_columns: Tensor, scale: Tensor) -> Tensor:
        x8, scale_x = to_float8(x, ACTIVATION)
        ctx.save_for_backward(x8, scale_x, by_columns, scale)
        ctx.weight_dtype = weight.dtype
        return product(x8, by_rows.t(), scale_x, scale, x.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x8, scale_x, by_columns, scale = ctx.saved_tensors
        (grad,) = grads
        g8, scale_g = to_float8(grad, GRADIENT)
        grad_x = product(g8, by_columns.t(), scale_g, scale, grad.dtype, fast=False)
        grad_w = product(g8.t(), x8, scale_g, scale_x, grad.dtype, fast=False)
        return grad_x, grad_w.to(ctx.weight_dtype), None, None, None


def float8_linear(x: Tensor, weight: Tensor, rounded: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """As F.linear, (..., in) -> (..., out); the product of the leading sizes must be a multiple of MULTIPLE. rounded:
    the weight, as `Rounded` has it."""
    y: Tensor = _Float8Linear.apply(x.flatten(0, -2), weight, *rounded)
    return y.unflatten(0, x.shape[:-1])


def suits_float8(module: nn.Linear) -> bool:
    sides = (module.in_features, module.out_features)
    return min(sides) >= SMALLEST and all(side % MULTIPLE == 0 for side in sides)


def require_float8(device: torch.device, seq_len: int) -> None:
    """UserError when --fp8 does not work here."""
    this = {"cpu": "a CPU", "mps": "a Mac"}.get(device.type, device.type)
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 9) and not torch.version.hip:
            this = ""
        else:
            this = "an AMD GPU" if torch.version.hip else f"a GPU of compute capability {capability[0]}.{capability[1]}"
    if this:
        raise UserError(
            f"--fp8 needs an NVIDIA GPU with float8 units (H100, L4, RTX 40 or newer), and this is {this}",
            "Leave --fp8 out",
        )
    if seq_len % MULTIPLE:
        raise UserError(
            f"--fp8 needs a context length divisible by {MULTIPLE}, not {seq_len}",
            "Change --max_seq_len",
            "Leave --fp8 out",
        )
