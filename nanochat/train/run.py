"""One training of any stage: clock, stopping, limits, saving, evaluation, metrics and summary.

A `Method` makes the steps: `Supervised` (base, mid, sft) learns from given text, `Reinforce` (rl) from the model's own
answers.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat import checkpoint
from nanochat.console import Progress, UserError
from nanochat.feed import Step, merge_states
from nanochat.machine import Machine, release_memory
from nanochat.metrics import read_metrics, training_file
from nanochat.model import GPT
from nanochat.optim import Optimizer, Schedule
from nanochat.paths import checkpoints_dir, require_disk
from nanochat.tokenizer import Tokenizer
from nanochat.train import state as states
from nanochat.train.config import TrainConfig, settings
from nanochat.train.state import TrainState
from nanochat.train.step import LossScale, NotFiniteError, Stepper
from nanochat.train.stopping import Calibration, Stop, over
from nanochat.train.tracker import Tracker

WAIT = 1.0  # seconds that a rank waits for its batches before it checks for Ctrl-C and for the other ranks


class Feed(Protocol):
    """Where steps come from."""

    def get(self, seconds: float) -> Step | None:
        """This rank's part of the next step; None when it is not there within so many seconds."""

    def close(self) -> None: ...


@dataclass
class Taken:
    """A finished step. tokens: learnt from or sampled. logged, shown: more values for the metrics and the bar."""

    loss: float
    tokens: int
    logged: dict[str, float] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)


class Method(Protocol):
    """How a run makes its steps."""

    @property
    def loss(self) -> Callable[..., Tensor]:
        """Summed loss of a `MicroBatch`'s tensors."""

    facts: Mapping[str, Any]  # for the metrics' settings
    unit: str  # of the progress bar; a step has `units` of them
    units: int
    from_start: bool  # whether the model is evaluated before the first step, too

    def feed(self) -> Feed: ...

    def schedule(self, steps: int) -> Schedule: ...

    def take(self, stepper: Stepper, step: Step, valid: int, schedule: Schedule, s: TrainState) -> Taken:
        """valid: targets of all ranks' parts. NotFiniteError before any weight is touched."""

    def at(self, step: Step) -> str:
        """Where a step's data came from, for an error."""

    def evaluate(self, on_batch: Callable[[int], None]) -> dict[str, float]:
        """Metrics by name, the most telling first. on_batch: called with the tokens of every batch that is done."""

    def summary(self, s: TrainState, tok_per_s: float) -> dict[str, Any]:
        """More values for the summary."""

    def farewell(self, s: TrainState, summary: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
        """Print the last lines. rows: all of the run's metrics."""


@dataclass
class Run:
    """budget: seconds that the whole run may take; 0: `state.steps` is fixed."""

    machine: Machine
    config: TrainConfig
    model: GPT
    tokenizer: Tokenizer
    optimizer: Optimizer
    state: TrainState
    method: Method
    budget: float = 0.0

    def go(self) -> TrainState:
        """Train to the horizon, or until interrupted (KeyboardInterrupt, after saving). Saves before it evaluates."""
        s, config = self.state, self.config
        facts = {**run_facts(self.machine, s, self.model, config), **self.method.facts}
        self.writer = Tracker(training_file(s.stage, s.tag), config.run, s.stage, facts)
        if s.step == 0:
            self.writer.write("settings", **facts)
        need = checkpoint_bytes(self.model, config)
        require_disk(checkpoints_dir(s.stage), need, f"keeping the checkpoints of {s.stage} {s.tag}")
        self.began, self.before, self.saved = time.monotonic(), s.seconds, s.step
        units = self.method.units
        with Progress(s.steps * units, s.stage, self.method.unit, start=s.step * units) as bar:
            with Stop() as stop, contextlib.closing(self.method.feed()) as feed:
                self.train(bar, stop, feed)
            if self.saved < s.step or not checkpoint.steps(s.stage, s.tag):
                self.save()  # a killed evaluation must not cost the training
            self.evaluate(bar)
        self.finish()
        return s

    def train(self, bar: Progress, stop: Stop, feed: Feed) -> None:
        """Take the steps that are left."""
        s, config, method = self.state, self.config, self.method
        scale = LossScale(s.loss_scale, s.good_steps)
        stepper = Stepper(self.machine, self.model, self.optimizer, method.loss, scale)
        calibrate = Calibration(self.budget) if self.budget else None
        speed, taken_here = 0.0, 0
        if s.step == 0 and method.from_start:
            self.evaluate(bar)
        while s.step < s.steps:
            began = time.monotonic()
            found = _next(self.machine, feed, stop, lambda waited: over(config, s, s.seconds + waited))
            if isinstance(found, BaseException):
                if self.saved < s.step:
                    self.save()
                self.writer.finish()
                raise found
            step, valid = found
            waited = time.monotonic() - began
            schedule = method.schedule(s.steps)
            try:
                taken = method.take(stepper, step, valid, schedule, s)
            except NotFiniteError as error:
                raise _diverged(s, error, method.at(step)) from None
            except UserError:
                raise
            except Exception:
                # Ctrl-C also ends the compiler that the first steps wait for.
                if stop.asked and taken_here < 2 and s.step == self.saved:
                    raise KeyboardInterrupt from None
                raise
            took = time.monotonic() - began
            if taken_here < 2:  # this step compiled; where matrices take turns, so does the second
                release_memory()
                taken_here += 1
            s.loss_scale, s.good_steps = scale.value, scale.good
            s.step += 1
            s.tokens += taken.tokens
            s.seconds = self.clock()
            s.loss = taken.loss if s.step == 1 else 0.9 * s.loss + 0.1 * taken.loss
            s.loader = step.state or None
            now = taken.tokens / took
            speed = 0.8 * speed + 0.2 * now if speed else now
            self.writer.write(
                "step", step=s.step, loss=taken.loss, tokens=s.tokens, lr=schedule.rate(s.step - 1),
                tok_per_s=now, waited=waited, seconds=s.seconds, **taken.logged,
            )  # fmt: skip
            bar.advance(method.units, **(taken.shown or {"loss": f"{s.loss:.3f}"}), **{"tok/s": f"{speed:,.0f}"})
            if calibrate:
                s.steps = calibrate.horizon(s, took)
                bar.total = s.steps * method.units
            if due(config.save_every, s, 10) and s.step < s.steps:
                self.save()
            if due(config.eval_every, s, 5) and s.step < s.steps:
                self.evaluate(bar)

    def clock(self) -> float:
        """Seconds of training, those before it was resumed included."""
        return self.before + time.monotonic() - self.began

    def save(self) -> None:
        """Save this step and delete all checkpoints but the newest; every rank calls it, the first one writes."""
        s, ranks = self.state, self.machine.ranks
        if s.loader and ranks.world > 1:
            gathered: list[Any] = [None] * ranks.world
            dist.all_gather_object(gathered, s.loader)
            s.loader = merge_states(gathered)
        tensors = self.optimizer.state_dict()  # every rank may hold a part of it
        if ranks.is_main:
            states.save(s, self.model, tensors, self.tokenizer)
            checkpoint.prune(s.stage, s.tag, self.config.keep)
        if ranks.world > 1:
            dist.barrier()
        self.saved = s.step

    def evaluate(self, bar: Progress) -> None:
        s, done = self.state, 0

        def tell(tokens: int) -> None:
            nonlocal done
            done += tokens
            bar.advance(0, validating=f"{done:,}")

        s.val = self.method.evaluate(tell)
        bar.fields.pop("validating", None)
        if s.step:  # a limit lets at least one step be taken, so an evaluation before it does not count
            s.seconds = self.clock()
        self.writer.write("eval", step=s.step, tokens=s.tokens, **s.val)
        name, value = next(iter(s.val.items()))
        bar.advance(0, **{name: f"{value:.3f}"})

    def finish(self) -> None:
        """tok_per_s is the median over the steps, so that compilation and other pauses do not count."""
        s = self.state
        rows = read_metrics(training_file(s.stage, s.tag)) if self.machine.ranks.is_main else []
        speed = statistics.median([r["tok_per_s"] for r in rows if r["kind"] == "step"] or [0.0])
        summary = {
            "seconds": s.seconds,
            "steps": s.step,
            "tokens": s.tokens,
            "params": self.model.num_params(),
            "tok_per_s": speed,
            **self.method.summary(s, speed),
            "tag": s.tag,
            **s.val,
        }
        self.writer.write("summary", **summary)
        self.writer.finish()
        self.method.farewell(s, summary, rows)


def checkpoint_bytes(model: GPT, config: TrainConfig) -> int:
    """Bytes of all kept checkpoints and the one being written: weights and at most two moments each, in float32."""
    return model.num_params() * 4 * 3 * (config.keep + 1)


def due(every: int, s: TrainState, times: int) -> bool:
    """Whether something is due now: every `every` steps, or (0) `times` times in a run whose horizon may move."""
    if every == 0:
        return times * s.step // s.steps > times * (s.step - 1) // s.steps
    return every > 0 and s.step % every == 0


def _diverged(s: TrainState, error: NotFiniteError, where: str) -> UserError:
    have = checkpoint.steps(s.stage, s.tag)
    good = f"The last good checkpoint is {list(have.values())[-1]}" if have else "There is no checkpoint yet"
    return UserError(
        f"{error} in step {s.step + 1}, {where}",
        f"{good}; set NANOCHAT_DTYPE=float32 and go on from there",
        "Try a lower --lr_scale",
        "Try a lower --matrix_lr and --embedding_lr",
    )


def _next(
    machine: Machine, feed: Feed, stop: Stop, limit: Callable[[float], UserError | None]
) -> tuple[Step, int] | BaseException:
    """This rank's part of the next step and the number of targets in all ranks' parts, once every rank has its part.

    Until then the ranks exchange their state every WAIT seconds: no collective takes so long that it times out, and
    when one rank was asked to stop or its feed failed, all return that and stop together.
    """
    step: Step | None = None
    error: Exception | None = None
    began = time.monotonic()
    while True:
        if step is None:
            try:
                step = feed.get(WAIT)
            except Exception as failure:
                error = failure
        reached = limit(0.0 if step else time.monotonic() - began)
        counts = torch.tensor(
            [
                step.valid if step else 0,
                step is None,
                error is not None,
                stop.asked > 0,
                bool(reached and machine.ranks.is_main),
            ]
        )
        if machine.ranks.world > 1:
            counts = counts.to(machine.device)
            dist.all_reduce(counts)
        valid, missing, failed, stopped, enough = counts.tolist()
        if stopped:  # first, since the same signal may have ended the download
            return KeyboardInterrupt()
        if enough:
            return reached or UserError("the first rank reached its limit", "Go on with --resume and a higher limit")
        if failed:
            return _first_error(error, machine.ranks.world)
        if step and not missing:
            return step, valid


def _first_error(error: Exception | None, world: int) -> Exception:
    """This rank's error, else that of the first rank that has one."""
    texts: list[str | None] = [None] * world
    if world > 1:
        dist.all_gather_object(texts, str(error) if error else None)
    if error:
        return error
    rank, text = next((rank, text) for rank, text in enumerate(texts) if text is not None)
    return UserError(f"rank {rank} cannot go on: {text}")


def run_facts(machine: Machine, s: TrainState, model: GPT, config: TrainConfig) -> dict[str, Any]:
    """What metrics.jsonl records about a run, its settings first."""
    return {
        **settings(config),
        "stage": s.stage,
        "tag": s.tag,
        "model": model.config.to_dict(),
        "params": model.num_params(),
        "steps": s.steps,
        "rates": s.rates,
        "machine": machine.name,
        "dtype": str(machine.dtype).removeprefix("torch."),
        "ranks": machine.ranks.world,
    }
