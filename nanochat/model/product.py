"""Products of matrices in native code (csrc/native/product.cpp), for training on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nanochat.native import native_worker

SMALL = 32  # a matrix with fewer inputs or outputs is left to torch

# An operator, so that compiled code calls it as it calls torch's own.
torch.library.define("nanochat::product", "(Tensor a, Tensor b, bool turned) -> Tensor")


@torch.library.impl("nanochat::product", "cpu")
def _multiply(a: Tensor, b: Tensor, turned: bool) -> Tensor:
    out = _empty(a, b, turned)
    first, second = (x.detach().contiguous().numpy() for x in (a, b))
    native_worker("Product").multiply(first, second, turned, out.numpy())
    return out


def _empty(a: Tensor, b: Tensor, turned: bool) -> Tensor:
    return a.new_empty((a.size(0), b.size(int(not turned))))


torch.library.register_fake("nanochat::product", _empty)


def product(a: Tensor, b: Tensor, turned: bool = False) -> Tensor:
    """a (n, k) times b (k, m), or (m, k) if it is turned; float32. ValueError: the shapes do not fit. No gradients."""
    y: Tensor = torch.ops.nanochat.product(a, b, turned)
    return y


def _joined(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat(tuple(weights)) if len(weights) > 1 else weights[0]


class _Linear(torch.autograd.Function):
    """The weights' gradients are torch's: its product of long and narrow matrices was the faster one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        return product(x, _joined(weights), turned=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        (grad,), (x, *weights) = grads, ctx.saved_tensors
        by_weights = (grad.mT @ x).split([len(weight) for weight in weights])
        return product(grad, _joined(weights)), *by_weights


def native_linear(x: Tensor, *weights: Tensor) -> Tensor:
    """x (..., inputs) times the transposes of weights (outputs, inputs), one result after another in the last
    dimension."""
    y: Tensor = _Linear.apply(x.flatten(0, -2), *weights)
    return y.unflatten(0, x.shape[:-1])
