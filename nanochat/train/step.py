"""One optimiser step: forward and backward in pieces that fit into memory, the guard against NaN, the update."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from nanochat.console import UserError, say
from nanochat.feed import Step
from nanochat.machine import Machine
from nanochat.model import GPT
from nanochat.optim import Optimizer, Schedule

NO_MEMORY = re.compile("can't allocate memory|out of memory", re.IGNORECASE)  # errors of CPUs and Apple's GPUs


class NotFiniteError(ArithmeticError):
    """The loss or a gradient is infinite or not a number; no weight has been touched."""


@dataclass
class LossScale:
    """float16 loses small gradients, so the loss is multiplied by `value`: halved when a gradient overflows (that step
    is skipped), doubled after `patience` steps without overflow (https://arxiv.org/abs/1710.03740)."""

    value: float = 2.0**16
    good: int = 0
    patience: int = 1000

    def overflowed(self) -> None:
        self.value, self.good = self.value / 2, 0

    def held(self) -> None:
        self.good += 1
        if self.good == self.patience:
            self.value, self.good = self.value * 2, 0


class Stepper:
    """Runs steps. rows: sequences per forward pass after memory ran out; 0: as many as the loader gives.

    on_update: called when all ranks are ready, before weights change. on_piece: called after each forward and backward
    pass, and for each token that is sampled.
    """

    def __init__(
        self,
        machine: Machine,
        model: GPT,
        optimizer: Optimizer,
        loss: Callable[..., Tensor],
        scale: LossScale,
        on_update: Callable[[], object] = lambda: None,
        on_piece: Callable[[], object] = lambda: None,
    ) -> None:
        self.machine, self.model, self.optimizer, self.loss = machine, model, optimizer, loss
        self.on_update, self.on_piece = on_update, on_piece
        self.scale = scale if machine.dtype == torch.float16 else None
        self.rows = 0

    def __call__(self, step: Step, valid: int, schedule: Schedule, number: int) -> float:
        """Train on this rank's part of a step; valid: targets of all ranks' parts. Returns the mean loss over them.

        UserError when there are no targets: the mean of nothing is not 0.
        """
        if not valid:
            raise UserError("this step has no token to learn from", "Give conversations with answers, or more of them")
        self.model.round_weights()
        total = self._gradients(step, valid)
        grads = [g._values() if g.is_sparse else g for p in self.model.parameters() if (g := p.grad) is not None]
        bad = ~get_total_norm(grads).isfinite()
        facts = torch.stack((total, bad.to(total.dtype)))
        if self.machine.ranks.world > 1:
            dist.all_reduce(facts)
        loss, overflows = facts.tolist()
        if self.scale and overflows and math.isfinite(loss) and self.scale.value > 1:
            self.scale.overflowed()
            self.optimizer.clear()
            return loss
        if overflows or not math.isfinite(loss):
            self.optimizer.clear()
            raise NotFiniteError("the loss became " + str(loss) if not math.isfinite(loss) else "a gradient overflowed")
        if self.scale:
            torch._foreach_div_(grads, self.scale.value)
            self.scale.held()
        self.on_update()
        self.optimizer.step(schedule, number)
        return loss

    def _gradients(self, step: Step, valid: int) -> Tensor:
        """Sum the gradients over the step's pieces, halving the pieces until they fit into memory."""
        while True:
            try:
                total = torch.zeros((), device=self.machine.device)
                for batch in step.micro:
                    size = self.rows or len(batch.ids)
                    for piece in zip(*(tensor.split(size) for tensor in batch.tensors), strict=True):
                        given = [tensor.to(self.machine.device) for tensor in piece]
                        # Divided by the targets of the whole step, not of the piece: each target weighs the same.
                        loss = self.loss(*given, reduction="sum") / valid
                        (loss * self.scale.value if self.scale else loss).backward()  # type: ignore[no-untyped-call]
                        total += loss.detach().float()
                        self.on_piece()
                return total
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and not NO_MEMORY.search(str(error)):
                    raise
                rows = self.rows or max(len(batch.ids) for batch in step.micro)
                if rows == 1:
                    raise UserError(
                        f"one sequence of {step.micro[0].ids.size(1)} tokens does not fit into memory: {error}",
                        "Use --checkpoint_activations",
                        "Give a shorter --max_seq_len",
                        "Take a smaller --depth",
                        "Train a smaller model, or one with a shorter context",
                    ) from None
                self.rows = rows // 2
            # Not inside the handler, which keeps the failed pass's tensors alive.
            self.optimizer.clear()
            if self.machine.device.type == "cuda":
                torch.cuda.empty_cache()
            say(f"Out of memory with {rows} sequences at once: going on with {self.rows}")
