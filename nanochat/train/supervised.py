"""Steps on text that is given: pretraining, mid-training, fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nanochat.console import UserError, duration, say
from nanochat.feed import Ahead, Loader, Step
from nanochat.machine import Machine, peak_flops
from nanochat.model import GPT
from nanochat.optim import Schedule
from nanochat.train.config import TrainConfig
from nanochat.train.equip import compiles
from nanochat.train.run import Taken
from nanochat.train.state import TrainState
from nanochat.train.step import Stepper


class Supervised:
    """A `Method`. schedule: by number of steps. validate: this rank's part of the numerator and the denominator of
    `metric`, of which less is better; it reports each batch's tokens."""

    unit = "tokens"
    from_start = False
    more_is_better = False

    def __init__(
        self,
        machine: Machine,
        config: TrainConfig,
        model: GPT,
        loss: Callable[..., Tensor],
        loader: Loader,
        batch_tokens: int,
        schedule: Callable[[int], Schedule],
        metric: str,
        validate: Callable[[GPT, Callable[[int], None]], tuple[float, float]],
        pins: bool = False,
    ) -> None:
        self.machine, self.model, self.loader = machine, model, loader
        self.loss: Callable[..., Tensor] = loss
        self.units = batch_tokens
        self.flops, self.fp8 = model.config.flops_per_token, config.fp8
        self.schedule, self.metric, self.validate, self.pins = schedule, metric, validate, pins
        self.even = machine.device.type == "cuda" and compiles(config.compile, machine)
        self.facts: Mapping[str, Any] = {"batch_tokens": batch_tokens}

    def feed(self) -> Ahead:
        return self.loader.ahead()

    def take(self, stepper: Stepper, step: Step, valid: int, schedule: Schedule, s: TrainState) -> Taken:
        if 2 * s.short > s.steps:  # fewer steps than were planned: the whole length must still be learnt
            s.short = self.loader.shorten(s.step, s.steps // 2)
        return Taken(stepper.begin(step, valid, schedule, s.step), self.units)

    def at(self, step: Step) -> str:
        return f"with the batch that ends at row {step.state['row']} of the text"

    def evaluate(self, on_batch: Callable[[int], None]) -> list[float]:
        return list(self.validate(self.model, on_batch))

    def scores(self, sums: list[float]) -> dict[str, float]:
        above, below = sums
        if not below:
            raise UserError("there is nothing to validate on", "Give conversations with answers, or more text")
        return {self.metric: above / below}

    def summary(self, s: TrainState, tok_per_s: float) -> dict[str, Any]:
        peak = peak_flops(self.machine, self.fp8) * self.machine.ranks.world
        return {"loss": s.loss, "flops": self.flops * s.tokens, "mfu": tok_per_s * self.flops / peak}

    def farewell(self, s: TrainState, summary: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
        val = "  ".join(f"{k} {v:.4f}" for k, v in s.val.items())
        say(
            f"{s.stage}: {s.step} steps, {s.tokens:,} tokens in {duration(s.seconds)}, loss {s.loss:.3f}, {val}, "
            f"{summary['tok_per_s']:,.0f} tok/s, MFU {summary['mfu']:.0%}"
        )
