"""Muon: momentum, orthogonalised (https://kellerjordan.github.io/posts/muon/).

With upstream nanochat's refinements: Polar-Express coefficients (https://arxiv.org/abs/2505.16932), row equilibration
(https://arxiv.org/abs/2603.28254), Frobenius renormalisation (https://arxiv.org/abs/2602.21545), a second moment per
output row or column (NorMuon, https://arxiv.org/abs/2510.05491) and cautious weight decay.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Coefficients of x -> a x + b x^3 + c x^5, applied in turn: those of the Polar Express paper for five iterations and
# singular values from 0.001 on, with safety factor 0.02 and cushion 2.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(x: Tensor) -> Tensor:
    """Move x (n, m, k), m <= k, towards the nearest semi-orthogonal matrices; its singular values must be below 1."""
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def prepare(
    grad: Tensor,
    momentum_buffer: Tensor,
    momentum: Tensor,
    tall: bool,
    dtype: torch.dtype,
    spoilt: Tensor | None = None,
) -> Tensor:
    """Nesterov momentum, then wide matrices for `orthogonalize`, rows of equal norm and singular values below 1."""
    if spoilt is not None:
        grad = torch.where(spoilt, momentum_buffer, grad)
    momentum = momentum.to(grad.dtype)
    momentum_buffer.lerp_(grad, 1 - momentum)
    g = grad.lerp(momentum_buffer, momentum)
    g = g.mT if tall else g
    length = g.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-7)
    return (g / (length * (1.01 * g.size(-2) ** 0.5))).to(dtype)


def apply(
    x: Tensor,
    second_moment: Tensor,
    params: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    tall: bool,
    spoilt: Tensor | None = None,
    beta2: float = 0.9,
) -> None:
    """Scale to Frobenius norm sqrt(min(m, k)), then rows (columns) by their second moments, then take the step."""
    lr, weight_decay = (t.to(params.dtype) for t in (lr, weight_decay))
    g = (x.mT if tall else x).to(params.dtype)
    dim = -1 if g.size(-2) >= g.size(-1) else -2
    mean_square = g.square().mean(dim, keepdim=True)
    all_square = mean_square.sum((-2, -1), keepdim=True).clamp_min(1e-14) * g.size(dim)
    mean_square = mean_square * (x.size(-2) / all_square)
    if spoilt is not None:
        lr = lr.masked_fill(spoilt, 0)
        mean_square = torch.where(spoilt, second_moment, mean_square)
    second_moment.lerp_(mean_square, 1 - beta2)
    scale = second_moment.clamp_min(1e-10).rsqrt()
    before, after = mean_square.sum((-2, -1), keepdim=True), (mean_square * scale.square()).sum((-2, -1), keepdim=True)
    g = g * (scale * ((x.size(-2) / all_square) * (before / after.clamp_min(1e-20))).sqrt())
    # Cautious decay: only where the update moves the weight towards zero anyway.
    params.sub_(lr * (g + weight_decay * params * (g * params >= 0)))


def muon_update(
    grad: Tensor,
    momentum_buffer: Tensor,
    second_moment: Tensor,
    params: Tensor,
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
    dtype: torch.dtype,
    spoilt: Tensor | None = None,
    prepare: Callable[..., Tensor] = prepare,
    apply: Callable[..., None] = apply,
) -> None:
    """One step, in place, for a stack (n, m, k) of matrices of one shape; second_moment (n, m, 1), or (n, 1, k) when
    m < k, holds the running mean square of each row (column). lr, which the caller scales by sqrt(max(1, m / k)),
    momentum and weight_decay are tensors () on the device, so that compiled code serves all steps. spoilt: a tensor ()
    on the device: where it is true, nothing changes, whatever the gradient is."""
    tall = grad.size(-2) > grad.size(-1)
    x = orthogonalize(prepare(grad, momentum_buffer, momentum, tall, dtype, spoilt))
    apply(x, second_moment, params, lr, weight_decay, tall, spoilt)
