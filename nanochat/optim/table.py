"""Adam for embedding tables when a step touches few of their rows."""

from __future__ import annotations

import torch
from torch import Tensor

# Share of AdamW's rate. At depth 2, after 0.8 M tokens of English: 0.5, 0.7, 1 and 2 gave 1.984, 1.983, 1.989 and 1.997
# bits per byte, AdamW 1.986.
LR = 0.7
DECAY_EVERY = 8  # steps; all rows decay together, by as much as in that many steps


class Table:
    """Adam with one second moment per row (as for embeddings in https://arxiv.org/abs/2406.16793) and no momentum: a
    row without a gradient only decays. A step's cost depends only on its tokens; the state is two numbers per row.

    weight (n, width), whose gradient is sparse; lr and decay: AdamW's.
    """

    def __init__(self, weight: Tensor, lr: float, beta2: float, decay: float):
        self.weight, self.lr, self.beta2, self.decay = weight, LR * lr, beta2, decay * lr
        self.steps = 0
        self.square = weight.data.new_zeros(len(weight))  # second moment at the row's last gradient
        self.seen = torch.zeros(len(weight), dtype=torch.long, device=weight.device)  # that gradient's step

    def take_gradient(self) -> tuple[Tensor, Tensor]:
        """Take the gradient from the weight: the rows touched (k,), each once, and their gradients (k, width)."""
        grad, self.weight.grad = self.weight.grad, None
        if grad is None:
            return self.seen[:0], self.weight.data[:0]
        grad = grad.coalesce()
        return grad.indices()[0], grad.values()

    def step(self, rate: float, ids: Tensor, grads: Tensor) -> None:
        """Update rows ids (k,), all different, by their gradients (k, width) at `rate` times the learning rate."""
        self.steps += 1
        if self.decay and self.steps % DECAY_EVERY == 0:
            self.weight.mul_(1 - DECAY_EVERY * rate * self.decay)
        kept = (self.beta2 ** (self.steps - self.seen[ids])).to(grads.dtype)
        square = self.square[ids] * kept + (1 - self.beta2) * grads.square().mean(1)
        self.square[ids], self.seen[ids] = square, self.steps
        length = (square / (1 - self.beta2**self.steps)).sqrt().clamp_min(1e-10)
        self.weight.index_add_(0, ids, grads * (-self.lr * rate / length)[:, None])

    def state(self) -> dict[str, Tensor]:
        return {"square": self.square, "seen": self.seen, "step": torch.tensor(float(self.steps))}

    def load(self, state: dict[str, Tensor]) -> None:
        """Load a table's `state`, or AdamW's of the same table."""
        self.steps = int(state["step"])
        if "exp_avg_sq" in state:
            self.square.copy_(state["exp_avg_sq"].mean(1))
            self.seen.fill_(self.steps)
        else:
            self.square.copy_(state["square"])
            self.seen.copy_(state["seen"])


def adamw_state(state: dict[str, Tensor], beta2: float, width: int) -> dict[str, Tensor]:
    """A table's state as AdamW's: every number of a row gets the row's second moment, and momentum 0."""
    square = state["square"] * beta2 ** (state["step"] - state["seen"]).to(state["square"].dtype)
    whole = square[:, None].expand(-1, width)
    return {"exp_avg": torch.zeros_like(whole), "exp_avg_sq": whole, "step": state["step"]}
