"""Muon: momentum, orthogonalised (https://kellerjordan.github.io/posts/muon/).

With upstream nanochat's refinements: Polar-Express coefficients (https://arxiv.org/abs/2505.16932), row equilibration
(https://arxiv.org/abs/2603.28254), Frobenius renormalisation (https://arxiv.org/abs/2602.21545), a second moment per
output row or column (NorMuon, https://arxiv.org/abs/2510.05491) and cautious weight decay.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Coefficients of 5 iterations, safety factor 0.02 and cushion 2; from the Polar Express paper.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(g: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearly the nearest semi-orthogonal matrices, of Frobenius norm sqrt(min(m, n)); g (..., m, n), m <= n."""
    x = g.to(dtype)
    frobenius = x.float().norm(dim=(-2, -1), keepdim=True)
    rows = x.float().norm(dim=-1, keepdim=True).clamp_min(1e-7)
    x = x * (frobenius / (x.size(-2) ** 0.5 * rows)).to(dtype)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7).to(dtype)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    y = x.to(g.dtype)
    return y * (y.size(-2) ** 0.5 / y.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7))


def muon_update(
    grad: Tensor,
    momentum_buffer: Tensor,
    second_moment: Tensor,
    params: Tensor,
    lr: float,
    momentum: float,
    weight_decay: float,
    tall: bool,
    dtype: torch.dtype,
    beta2: float = 0.9,
) -> None:
    """One step, in place, for a stack (n, m, k) of matrices of one shape; second_moment (n, m, 1), or (n, 1, k) when
    m < k, holds the running mean square of each row (column). lr is scaled by sqrt(max(1, m / k)) by the caller."""
    momentum_buffer.lerp_(grad, 1 - momentum)
    g = grad.lerp(momentum_buffer, momentum)
    g = orthogonalize(g.mT, dtype).mT if tall else orthogonalize(g, dtype)
    dim = -1 if tall or g.size(-2) == g.size(-1) else -2
    mean_square = g.square().mean(dim=dim, keepdim=True)
    second_moment.lerp_(mean_square, 1 - beta2)
    scale = second_moment.clamp_min(1e-10).rsqrt()
    before = mean_square.sum(dim=(-2, -1), keepdim=True).sqrt()
    after = (mean_square * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    g = g * (scale * (before / after.clamp_min(1e-10)))
    # Cautious decay: only where the update moves the weight towards zero anyway.
    params.sub_(lr * (g + weight_decay * params * (g * params >= 0)))
