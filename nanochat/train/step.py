"""One optimiser step: forward and backward in pieces that fit into memory, the guard against NaN, the update.

A GPU computes behind the host's back, and would stand still whenever the host waited for a number of it. So there the
guard is the update's own: it changes nothing where the loss or a gradient is not finite, and the host hears of it one
step later. On a CPU reading a number waits for nothing, and the host looks before it updates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import get_total_norm

from nanochat.console import UserError, say
from nanochat.feed import Step
from nanochat.machine import Machine
from nanochat.model import GPT
from nanochat.optim import Optimizer, Schedule

NO_MEMORY = re.compile("can't allocate memory|out of memory", re.IGNORECASE)  # errors of CPUs and Apple's GPUs


def no_memory(error: Exception) -> bool:
    """Whether memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(NO_MEMORY.search(str(error)))


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


class Outcome:
    """Of a step that a GPU may still be computing."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read

    @classmethod
    def known(cls, loss: float) -> Outcome:
        return cls(lambda: loss)

    def read(self) -> float:
        """The mean loss; waits for it. NotFiniteError when the step changed no weight, and no later one will."""
        return self._read()


class Stepper:
    """Runs steps. rows: sequences per forward pass after memory ran out; 0: as many as the loader gives.

    on_update: called when all ranks are ready, before weights change; with several ranks, before gradients are sent.
    on_piece: called after each forward and backward pass, and for each token that is sampled.
    even: whether all passes of a step get as many sequences, for a loss whose every shape is compiled for itself. The
    last one is filled up with sequences without targets.
    late: whether outcomes are known a step later; None: where that saves time. float16 needs to know at once.
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
        even: bool = False,
        late: bool | None = None,
    ) -> None:
        self.machine, self.model, self.optimizer, self.loss = machine, model, optimizer, loss
        self.on_update, self.on_piece = on_update, on_piece
        self.scale = scale if machine.dtype == torch.float16 else None
        self.even = even
        self.late = machine.device.type == "cuda" and not self.scale if late is None else late
        self.rows = 0
        self._updating = False
        if self.late:
            self._spoilt = torch.zeros((), dtype=torch.bool, device=machine.device)  # by this step or one before
            pinned = machine.device.type == "cuda"
            self._told = [torch.zeros(2, pin_memory=pinned) for _ in range(2)]  # of two steps in turn, on the host

    def __call__(self, step: Step, valid: int, schedule: Schedule, number: int) -> float:
        """`begin`, and wait for the outcome."""
        return self.begin(step, valid, schedule, number).read()

    def begin(self, step: Step, valid: int, schedule: Schedule, number: int) -> Outcome:
        """Train on this rank's part of a step; valid: targets of all ranks' parts.

        UserError when there are no targets: the mean of nothing is not 0.
        """
        if not valid:
            raise UserError("this step has no token to learn from", "Give conversations with answers, or more of them")
        self._updating = False
        self.model.round_weights()
        total = self._gradients(step, valid)
        if not self.scale:  # else gradients are divided first, if they are to be used at all
            self.optimizer.reduce()
        grads = [g._values() if g.is_sparse else g for p in self.model.parameters() if (g := p.grad) is not None]
        bad = ~get_total_norm(grads).isfinite()
        facts = torch.stack((total, bad.to(total.dtype)))
        if self.machine.ranks.world > 1:
            dist.all_reduce(facts)
        if self.late:
            return self._update_if_finite(facts, schedule, number)
        loss, overflows = facts.tolist()
        if self.scale and overflows and math.isfinite(loss) and self.scale.value > 1:
            self.scale.overflowed()
            self.optimizer.drop()
            return Outcome.known(loss)
        if overflows or not math.isfinite(loss):
            self.optimizer.drop()
            raise _not_finite(loss)
        if self.scale:
            torch._foreach_div_(grads, self.scale.value)
            self.scale.held()
        self._begin_update()
        self.optimizer.step(schedule, number)
        return Outcome.known(loss)

    def _update_if_finite(self, facts: Tensor, schedule: Schedule, number: int) -> Outcome:
        """facts: the loss, and a number above 0 if a gradient overflowed. Once one step is not finite, no later one
        changes a weight: until the host hears of it, all stays as the last good step left it."""
        self._spoilt.logical_or_((facts[1] > 0) | ~facts[0].isfinite())
        self._begin_update()
        self.optimizer.step(schedule, number, self._spoilt)
        told = self._told[number % 2]
        told.copy_(facts, non_blocking=True)
        wait = wait_until_here(self.machine.device)

        def read() -> float:
            wait()
            loss, overflows = told.tolist()
            if overflows or not math.isfinite(loss):
                raise _not_finite(loss)
            return loss

        return Outcome(read)

    def _begin_update(self) -> None:
        if not self._updating:
            self._updating = True
            self.on_update()

    def _gradients(self, step: Step, valid: int) -> Tensor:
        """Sum the gradients over the step's pieces, halving the pieces until they fit into memory."""
        while True:
            try:
                total = torch.zeros((), device=self.machine.device)
                pieces = self._pieces(step)
                for number, piece in enumerate(pieces, 1):
                    given = [tensor.to(self.machine.device, non_blocking=True) for tensor in piece]
                    # Divided by the targets of the whole step, not of the piece: each target weighs the same.
                    loss = self.loss(*given, reduction="sum") / valid
                    if number == len(pieces) and self.machine.ranks.world > 1 and not self.scale:
                        self._begin_update()  # what other ranks have of this one's gradients must not be given up
                        self.optimizer.arm()
                    (loss * self.scale.value if self.scale else loss).backward()  # type: ignore[no-untyped-call]
                    total += loss.detach().float()
                    self.on_piece()
                return total
            except (RuntimeError, MemoryError) as error:
                if not no_memory(error):
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

    def _pieces(self, step: Step) -> list[tuple[Tensor, ...]]:
        """What the loss is given in each pass."""
        found = []
        for batch in step.micro:
            size = self.rows or len(batch.ids)
            found += list(zip(*(tensor.split(size) for tensor in batch.tensors), strict=True))
        size = max((len(piece[0]) for piece in found), default=0)
        return [_filled(ids, targets, size) for ids, targets in found] if self.even else found


def _filled(ids: Tensor, targets: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """ids and targets (rows, T), whose last sequences carry no loss."""
    missing = rows - len(ids)
    return (F.pad(ids, (0, 0, 0, missing)), F.pad(targets, (0, 0, 0, missing), value=-1)) if missing else (ids, targets)


def _not_finite(loss: float) -> NotFiniteError:
    return NotFiniteError("the loss became " + str(loss) if not math.isfinite(loss) else "a gradient overflowed")


def wait_until_here(device: torch.device) -> Callable[[], object]:
    """A function that waits until a device has done all that it was given so far."""
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event.synchronize
