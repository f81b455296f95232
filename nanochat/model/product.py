"""Products of matrices in native code (csrc/native/product.cpp), for training on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nanochat.native import native_worker

SMALL = 32  # a matrix with fewer inputs or outputs is left to torch

# An operator, so that compiled code calls it as it calls torch's own.
torch.library.define("nanochat::product", "(Tensor a, Tensor b, bool turn_a, bool turn_b) -> Tensor")


@torch.library.impl("nanochat::product", "cpu")
def _multiply(a: Tensor, b: Tensor, turn_a: bool, turn_b: bool) -> Tensor:
    out = _empty(a, b, turn_a, turn_b)
    first, second = (x.detach().contiguous().numpy() for x in (a, b))
    native_worker("Product").multiply(first, turn_a, second, turn_b, out.numpy())
    return out


def _empty(a: Tensor, b: Tensor, turn_a: bool, turn_b: bool) -> Tensor:
    return a.new_empty((a.size(int(turn_a)), b.size(int(not turn_b))))


torch.library.register_fake("nanochat::product", _empty)


def product(a: Tensor, b: Tensor, turn_a: bool, turn_b: bool) -> Tensor:
    """a (n, k) times b (k, m); what is to be turned is given as its transpose. float32; ValueError: the shapes do not
    fit. It has no gradients."""
    y: Tensor = torch.ops.nanochat.product(a, b, turn_a, turn_b)
    return y


def torchs_product(a: Tensor, b: Tensor, turn_a: bool, turn_b: bool) -> Tensor:
    """The same in torch."""
    return (a.mT if turn_a else a) @ (b.mT if turn_b else b)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, False, True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        return product(grad, weight, False, False), product(grad, x, True, False)


def native_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., inputs) times the transpose of weight (outputs, inputs)."""
    y: Tensor = _Linear.apply(x.flatten(0, -2), weight)
    return y.unflatten(0, x.shape[:-1])
