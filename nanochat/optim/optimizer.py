"""Parameter groups and their updates; state by parameter name, so that it fits any number of ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.optim.muon import muon_update
from nanochat.optim.schedule import Schedule
from nanochat.scale import Rates

BETAS = {"embed.weight": (0.8, 0.995), "head.weight": (0.8, 0.96)}


class Optimizer:
    """Muon for the blocks' matrices, torch's fused AdamW for embedding and head.

    `step` expects gradients already summed over micro-batches; it averages nothing but sums them over ranks.
    """

    def __init__(self, model: nn.Module, rates: Rates, muon_dtype: torch.dtype = torch.float32):
        self.rates, self.muon_dtype = rates, muon_dtype
        self.named = dict(model.named_parameters())
        self.stacks: dict[tuple[int, int], list[str]] = {}
        for name, p in self.named.items():
            if name.startswith("blocks.") and p.ndim == 2:
                self.stacks.setdefault((p.size(0), p.size(1)), []).append(name)
        in_stacks = {n for names in self.stacks.values() for n in names}
        groups = [
            {"params": [p], "lr": self._adam_rate(n), "betas": BETAS.get(n, (0.8, 0.95)), "name": n}
            for n, p in self.named.items()
            if n not in in_stacks
        ]
        self.adamw = torch.optim.AdamW(
            groups, weight_decay=0.0, eps=1e-10, fused=next(model.parameters()).device.type != "mps"
        )
        self.state: dict[str, Tensor] = {}
        for (m, k), names in self.stacks.items():
            for name in names:
                p = self.named[name]
                self.state[f"{name}.momentum"] = torch.zeros_like(p)
                self.state[f"{name}.second"] = p.new_zeros((m, 1) if m >= k else (1, k))

    def _adam_rate(self, name: str) -> float:
        return self.rates.embedding if name == "embed.weight" else self.rates.head

    @torch.no_grad()
    def step(self, schedule: Schedule, step: int) -> None:
        """Update all weights for `step` (0-based) and drop the gradients."""
        self._sum_over_ranks()
        rate, momentum = schedule.rate(step), schedule.momentum(step)
        decay = self.rates.weight_decay * schedule.decay(step)
        for (m, k), names in self.stacks.items():
            params: list[Tensor] = [self.named[n] for n in names]
            stacked = torch.stack(params)  # one batched product for all matrices of a shape
            momenta = torch.stack([self.state[f"{n}.momentum"] for n in names])
            seconds = torch.stack([self.state[f"{n}.second"] for n in names])
            grads = torch.stack([p.grad for p in params if p.grad is not None])
            lr = self.rates.matrix * rate * max(1.0, m / k) ** 0.5
            muon_update(grads, momenta, seconds, stacked, lr, momentum, decay, m > k, self.muon_dtype)
            for name, p, new, mom, sec in zip(names, params, stacked, momenta, seconds, strict=True):
                p.copy_(new)
                self.state[f"{name}.momentum"].copy_(mom)
                self.state[f"{name}.second"].copy_(sec)
        for group in self.adamw.param_groups:
            group["lr"] = self._adam_rate(group["name"]) * rate
        self.adamw.step()
        for p in self.named.values():
            p.grad = None

    def _sum_over_ranks(self) -> None:
        if not dist.is_initialized():
            return
        for p in self.named.values():
            dist.all_reduce(p.grad)

    def state_dict(self) -> dict[str, Tensor]:
        """All state as flat named tensors, for safetensors."""
        out = dict(self.state)
        for group in self.adamw.param_groups:
            state: dict[str, Any] = self.adamw.state.get(group["params"][0], {})
            out.update({f"{group['name']}.{k}": v for k, v in state.items()})
        return out

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave; KeyError when the model is another one."""
        for name, t in self.state.items():
            t.copy_(tensors[name])
        for group in self.adamw.param_groups:
            p, name = group["params"][0], group["name"]
            if f"{name}.step" in tensors:
                # The fused kernel reads all of them, the step too, where the weights are.
                self.adamw.state[p] = {
                    k: tensors[f"{name}.{k}"].to(p.device, copy=True) for k in ("step", "exp_avg", "exp_avg_sq")
                }
