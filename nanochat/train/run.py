"""One training of any stage: clock, stopping, limits, saving, evaluation, metrics and summary.

A `Method` makes the steps: `Supervised` (base, mid, sft) learns from given text, `Reinforce` (rl) from the model's own
answers.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat import checkpoint
from nanochat.console import LimitReachedError, Progress, UserError, say, warn
from nanochat.feed import Step
from nanochat.machine import Machine, host_group, release_memory
from nanochat.metrics import evaluations, last, read_metrics, rewind, training_file
from nanochat.model import GPT
from nanochat.optim import Optimizer, Schedule
from nanochat.paths import checkpoints_dir, require_disk
from nanochat.tokenizer import Tokenizer
from nanochat.train.answers import FILE, keep_answers
from nanochat.train.between import COLLECT_EVERY, Carrier, Garbage
from nanochat.train.config import BaseConfig, ChatConfig, TrainConfig, settings
from nanochat.train.host import host
from nanochat.train.quiz import Diary
from nanochat.train.saving import Saver
from nanochat.train.state import TrainState, shared
from nanochat.train.step import LossScale, NotFiniteError, Outcome, Stepper
from nanochat.train.stopping import PATIENCE, Calibration, Stop, over
from nanochat.train.tracker import Tracker
from nanochat.train.usage import Usage
from nanochat.train.watch import Watch

T = TypeVar("T")
WHERE = ("machine", "dtype", "ranks", "host")  # of a run's facts: what another machine may change when it goes on
SLOWEST_SAVE = 3600.0  # seconds
LEAVE = 20.0  # seconds that a failing rank waits for a save in which others take part
WAIT = 1.0  # seconds that a rank waits for its batches before it checks for Ctrl-C and for the other ranks


class Feed(Protocol):
    """Where steps come from."""

    def get(self, seconds: float) -> Step | None:
        """This rank's part of the next step; None when it is not there within so many seconds."""

    def close(self) -> None: ...


@dataclass
class Taken:
    """A step that has been taken. loss: perhaps still being computed. tokens: learnt from or sampled. logged, shown:
    more values for the metrics and the bar."""

    loss: Outcome
    tokens: int
    logged: dict[str, float] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)


@dataclass
class Untold:
    """A step whose loss nobody has asked for yet. where: its data's place. row: more for the metrics."""

    step: int
    loss: Outcome
    where: str
    row: dict[str, float]


class Method(Protocol):
    """How a run makes its steps."""

    @property
    def loss(self) -> Callable[..., Tensor]:
        """Summed loss of a `MicroBatch`'s tensors."""

    facts: Mapping[str, Any]  # for the metrics' settings
    unit: str  # of the progress bar; a step has `units` of them
    units: int
    flops: int  # per token of a step; 0 when a step is more than training on its tokens
    from_start: bool  # whether the model is evaluated before the first step, too
    pins: bool  # whether a checkpoint from before the warm-down is kept
    even: bool  # whether its loss is compiled for one shape of batches
    more_is_better: bool  # of an evaluation's first metric

    def feed(self) -> Feed: ...

    def schedule(self, steps: int) -> Schedule: ...

    def take(self, stepper: Stepper, step: Step, valid: int, schedule: Schedule, s: TrainState) -> Taken:
        """valid: targets of all ranks' parts. NotFiniteError before any weight is touched."""

    def at(self, step: Step) -> str:
        """Where a step's data came from, for an error."""

    def evaluate(self, on_batch: Callable[[int], None]) -> list[float]:
        """This rank's sums. on_batch: called with the tokens of every batch that is done. It uses no collective: a
        rank that fails must not leave others waiting."""

    def scores(self, sums: list[float]) -> dict[str, float]:
        """Metrics by name, the most telling first, from the sums over all ranks."""

    def summary(self, s: TrainState, tok_per_s: float) -> dict[str, Any]:
        """More values for the summary."""

    def farewell(self, s: TrainState, summary: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
        """Print the last lines. rows: all of the run's metrics."""


@dataclass
class Run:
    """budget: seconds that the whole run may take; 0: `state.steps` is fixed. begun: told when the run begins."""

    machine: Machine
    config: TrainConfig
    model: GPT
    tokenizer: Tokenizer
    optimizer: Optimizer
    state: TrainState
    method: Method
    budget: float = 0.0
    begun: Callable[[TrainState], None] = lambda state: None

    def go(self) -> TrainState:
        """Train to the horizon, or until interrupted (KeyboardInterrupt, after saving). Saves before it evaluates."""
        s, config = self.state, self.config
        file = training_file(s.stage, s.tag)
        if s.step:
            rewind(file, s.step)
        elif not last(read_metrics(file), "summary"):  # killed before its first checkpoint
            rewind(file, -1)
        self.evaluated = shared(lambda: evaluations(file)) if s.step else {}
        self.diary = self.open_diary(file.with_name(FILE))
        facts = {**run_facts(self.machine, s, self.model, config), **self.method.facts}
        self.writer = Tracker(file, s, config)
        if s.step == 0:
            self.writer.write("settings", **facts)
        else:  # perhaps elsewhere
            self.writer.write("resume", step=s.step, **{name: facts[name] for name in WHERE})
        self.begun(s)
        self.usage = Usage(self.machine, self.method.flops, self.config.fp8)
        there = sum(
            file.stat().st_size for step in checkpoint.steps(s.stage, s.tag).values() for file in step.glob("*")
        )
        need = max(0, checkpoint_bytes(self.model, config) - there)
        require_disk(checkpoints_dir(s.stage), need, f"keeping the checkpoints of {s.stage} {s.tag}")
        self.untold: Untold | None = None
        self.saver = Saver(
            self.machine, self.model, self.optimizer, self.tokenizer, config.keep, self.kept, begun=s.step
        )
        where = " of the first rank's machine" if self.machine.ranks.world > 1 else ""
        say(f"{s.stage}: saves are copied into main memory first: {self.saver.memory / 1e9:.2f} GB{where}")
        self.began, self.before = time.monotonic(), s.seconds
        self.last_save = self.began
        self.changing = threading.Lock()  # held from a step's update until the state counts it
        self.changed = False  # whether the training's thread holds it
        units = self.method.units
        # An update is never given up: other ranks may end that step, and then wait for this one's part of it.
        self.stop = Stop(lambda: self.saver.holds(s.step) and not self.changed, self.rescue, self.say_where)
        self.watch = Watch(self.machine, self.stop)
        with (
            Progress(s.steps * units, s.stage, self.method.unit, start=s.step * units) as self.bar,
            self.stop,
            self.watch,
        ):
            try:
                with contextlib.closing(self.method.feed()) as self.feed, Garbage() as self.garbage:
                    self.train()
                self.settle()  # a killed evaluation must not cost the training
                if s.step not in self.evaluated:
                    self.evaluate()
                s.val = self.evaluated[s.step]
            except BaseException as error:
                self.stop.leaving.set()
                if self.stop.asked and isinstance(error, Exception):
                    # The signal also ended what this rank needs: a compiler, a download, another rank.
                    self.leave(error, together=self.machine.ranks.world == 1)
                    self.say_where()
                    raise KeyboardInterrupt from error
                self.leave(error, isinstance(error, KeyboardInterrupt) or getattr(error, "together", False))
                if isinstance(error, KeyboardInterrupt):
                    self.say_where()
                if isinstance(error, LimitReachedError) and self.saver.begun < s.step:
                    # Then nothing may end this machine.
                    problem = f"{error.problem}, and that step could not be saved"
                    raise UserError(problem, "See above for why, and go on by the same command") from error
                raise
        self.finish()
        return s

    def train(self) -> None:
        """Take the steps that are left."""
        s, config, method = self.state, self.config, self.method
        scale = LossScale(s.loss_scale, s.good_steps)
        stepper = Stepper(
            self.machine, self.model, self.optimizer, method.loss, scale, self.updating, self.watch.progress,
            even=method.even,
        )  # fmt: skip
        self.carry = Carrier(self.machine.device)
        calibrate = Calibration(self.budget) if self.budget else None
        speed, taken_here = 0.0, 0
        self.ready: Step | None = None
        self.save_due = False
        if self.evaluation_due() and (s.step > 0 or method.from_start):
            self.evaluate()
        elif self.diary and self.evaluated.get(s.step) and self.diary.lacks(s.step):
            self.answer(self.evaluated[s.step])
        while s.step < s.steps:
            began = time.monotonic()
            step, valid = self.next()
            waited = time.monotonic() - began
            schedule = method.schedule(s.steps)
            self.watch.at(f"computing step {s.step + 1}")
            try:
                taken = method.take(stepper, step, valid, schedule, s)
            except NotFiniteError as error:
                raise _diverged(s, s.step + 1, error, method.at(step)) from None
            self.learn()  # of the step before: while a GPU computes this one, so that a step's time is the GPU's
            took = time.monotonic() - began
            s.loss_scale, s.good_steps = scale.value, scale.good
            s.step += 1
            s.tokens += taken.tokens
            s.seconds = self.clock()
            s.loader = step.state or None
            now = taken.tokens / took
            speed = 0.8 * speed + 0.2 * now if speed else now
            row = {
                "tokens": s.tokens, "lr": schedule.rate(s.step - 1), "tok_per_s": now, "waited": waited,
                "seconds": s.seconds, **self.usage.step(now), **taken.logged,
            }  # fmt: skip
            self.untold = Untold(s.step, taken.loss, method.at(step), row)
            if not stepper.late:
                self.learn()
            self.updated()
            self.watch.stepped(took)
            taken_here += 1
            if taken_here == 1 and config.compile != "off":  # this step compiled
                release_memory()
            elif taken_here == 2:  # where matrices take turns, this one did, too
                release_memory()
                self.garbage.freeze()
            elif s.step % COLLECT_EVERY == 0 or not method.flops:  # a step that samples leaves much behind
                self.garbage.collect()
            bar_fields = taken.shown or {"loss": f"{s.loss:.3f}"}
            self.bar.advance(method.units, **bar_fields, **{"tok/s": f"{speed:,.0f}"})
            if calibrate:
                s.steps = calibrate.horizon(s, took)
                self.bar.total = s.steps * method.units
            self.save_due = self.save_due or due(config.save_every, s, 10)
            last_at_peak = schedule.rate(s.step - 1) == 1 > method.schedule(s.steps).rate(s.step)
            if method.pins and config.save_every >= 0 and last_at_peak:
                s.steady = s.step
                self.save()
            if config.keep_every and s.step % config.keep_every == 0 and s.step < s.steps:
                self.save()
            if s.step < s.steps and self.evaluation_due():
                self.save()
                self.evaluate()
        self.learn()

    def learn(self) -> None:
        """Hear of the step that is not told yet, if any: wait for its loss, and record it. UserError when it or a
        gradient is not finite."""
        told, self.untold = self.untold, None
        if not told:
            return
        s = self.state
        try:
            loss = told.loss.read()
        except NotFiniteError as error:
            raise _diverged(s, told.step, error, told.where) from None
        s.loss = loss if told.step == 1 else 0.9 * s.loss + 0.1 * loss
        self.writer.write("step", step=told.step, loss=loss, **told.row)

    def next(self) -> tuple[Step, int]:
        """This rank's part of the next step and the number of targets in all ranks' parts, once every rank has its
        part. Saves first if that is due and the save before has ended.

        Until then the ranks exchange their state every WAIT seconds: no collective takes so long that it times out, and
        when one rank was asked to stop or its feed failed, all raise that together.
        """
        s, minutes = self.state, self.config.save_minutes
        main, world = self.machine.ranks.is_main, self.machine.ranks.world
        error: Exception | None = None
        began = time.monotonic()
        while True:
            if self.ready is None:
                try:
                    got = self.feed.get(WAIT)
                    self.ready = self.carry(got) if got else None
                except Exception as failure:
                    error = failure
            now = time.monotonic()
            # What was tried before the first step does not count: a limit lets at least one step be taken.
            spent = (s.seconds if s.step else 0.0) + (0.0 if self.ready else now - began)
            reached = over(self.config, s, spent)
            late = 0 < minutes * 60 < now - self.last_save and self.saver.begun < s.step
            counts = torch.tensor(
                [
                    self.ready.valid if self.ready else 0,
                    self.ready is None,
                    error is not None,
                    self.stop.asked > 0,
                    bool(reached and main),
                    main and (late or self.save_due),
                    self.saver.busy,
                ]
            )
            self.watch.at("waiting for the other ranks")
            if world > 1:
                dist.all_reduce(counts, group=host_group())
            valid, missing, failed, stopped, enough, save_due, busy = counts.tolist()
            if stopped:  # first, since the same signal may have ended the download
                raise KeyboardInterrupt
            if enough:
                raise _together(reached or UserError("the first rank reached its limit", "Go on by the same command"))
            if failed:
                raise _together(_first_error(error, world))
            if save_due and not busy:
                self.save()
            if self.ready and not missing:
                step, self.ready = self.ready, None
                return step, valid

    def updating(self) -> None:
        """Called before a step changes weights: from now on a rescue must not copy them, and waits."""
        self.watch.at(f"updating weights in step {self.state.step + 1}")
        self.changing.acquire()
        self.changed = True

    def updated(self) -> None:
        """Called when the state counts the step, which rl may take without an update."""
        if self.changed:
            self.changed = False
            self.changing.release()

    def clock(self) -> float:
        """Seconds of training, those before it was resumed included."""
        return self.before + time.monotonic() - self.began

    def save(self) -> None:
        """Copy this step, and write it in the background; every rank calls it."""
        s = self.state
        self.learn()  # a step that changed nothing must not be saved as one
        began = time.monotonic()
        self.wait()
        self.tell_of_failure()
        if self.saver.begun == s.step:
            return
        self.saver.begin(s)
        self.last_save, self.save_due = time.monotonic(), False
        self.writer.write("save", step=s.step, paused=self.last_save - began)

    def wait(self) -> None:
        """Wait until the save in flight, if any, has ended; the watch gives it an hour."""
        began = time.monotonic()
        while not self.saver.wait(1.0):
            if time.monotonic() - began < SLOWEST_SAVE:
                self.watch.at(f"waiting for the save of step {self.saver.begun}")

    def tell_of_failure(self) -> None:
        """Say that a save failed: training goes on, and saves again when that is due."""
        if error := self.saver.error:
            warn(f"warning: a checkpoint could not be written: {error}")

    def settle(self) -> None:
        """Wait until the last step is saved; UserError if it cannot be."""
        self.wait()
        if shared(lambda: self.saver.begun) < self.state.step:
            self.save()
            self.wait()
        if error := shared(lambda: self.saver.error):
            raise error
        if self.machine.ranks.is_main:  # what failed saves could not delete
            checkpoint.clear(self.state.stage, self.state.tag)

    def rescue(self) -> None:
        """From another thread, when the training's own does not get to it: save the last whole step."""
        if self.changing.acquire(timeout=PATIENCE) and self.saver.begun < self.state.step:
            with contextlib.suppress(NotFiniteError):  # then that step is none, and the one before is saved
                if untold := self.untold:
                    untold.loss.read()
                self.saver.begin(self.state)
        self.saver.wait()

    def leave(self, error: BaseException, together: bool) -> None:
        """Save what can be saved before a run ends early.

        When all ranks leave together, as after a signal, they save the last step; else only what was being written is
        finished, since a rank that failed cannot take part.
        """
        self.saver.wait(None if self.machine.ranks.world == 1 or isinstance(error, KeyboardInterrupt) else LEAVE)
        if together and self.saver.begun < self.state.step and not self.changing.locked():
            self.save()
            self.saver.wait()
        self.tell_of_failure()
        self.writer.finish()

    def say_where(self) -> None:
        s = self.state
        try:
            have = checkpoint.steps(s.stage, s.tag)
        except (OSError, UserError):
            have = {}
        where = f"step {max(have)} is saved in {have[max(have)]}" if have else "there is no checkpoint yet"
        say(f"{s.stage}: stopped at step {s.step} of {s.steps}; {where}")

    def kept(self, s: TrainState) -> set[int]:
        """Steps whose checkpoints are kept beside the newest ones."""
        config, have = self.config, checkpoint.steps(s.stage, s.tag)
        steps = {s.steady} | {step for step in have if config.keep_every and step % config.keep_every == 0}
        known = {step: next(iter(val.values())) for step, val in dict(self.evaluated).items() if val}
        known = {step: value for step, value in known.items() if step in have and math.isfinite(value)}
        if config.keep_best and known:
            best = (max if self.method.more_is_better else min)(known.values())
            steps.add(max(step for step, value in known.items() if value == best))
        return steps

    def evaluation_due(self) -> bool:
        s = self.state
        first = s.step == 0 and self.method.from_start
        return s.step not in self.evaluated and (first or due(self.config.eval_every, s, 5))

    def evaluate(self) -> None:
        """Measure, and record it. A failure is told, and does not end the training."""
        s, done = self.state, 0
        self.learn()
        self.watch.at(f"evaluating step {s.step}")

        def tell(tokens: int) -> None:
            nonlocal done
            done += tokens
            self.watch.at(f"evaluating step {s.step}, {done:,} done")
            self.bar.advance(0, validating=f"{done:,}")
            if self.stop.asked:
                raise KeyboardInterrupt

        sums: list[float] = []
        problem = ""
        try:
            sums = self.method.evaluate(tell)
        except Exception as error:
            problem = str(error) or repr(error)
        self.bar.fields.pop("validating", None)
        self.watch.at(f"waiting for the other ranks' evaluation of step {s.step}")
        all_sums, problems = zip(*_of_all_ranks(self.machine, (sums, problem)), strict=True)
        if s.step:  # a limit lets at least one step be taken, so an evaluation before it does not count
            s.seconds = self.clock()
        try:
            if any(problems):
                raise UserError(next(filter(None, problems)))
            s.val = self.method.scores([sum(parts) for parts in zip(*all_sums, strict=True)])
        except Exception as error:
            warn(f"warning: {s.stage} could not be evaluated at step {s.step}: {error}")
            self.evaluated[s.step] = {}
            return
        self.answer(s.val)  # first: an evaluation that is recorded is not done again
        self.writer.write("eval", step=s.step, tokens=s.tokens, **s.val)
        self.evaluated[s.step] = s.val
        name, value = next(iter(s.val.items()))
        self.bar.advance(0, **{name: f"{value:.3f}"})

    def open_diary(self, path: Path) -> Diary | None:
        """Where the model's answers go, on the first rank. Those of steps that are done again are removed."""
        if not self.machine.ranks.is_main:
            return None
        try:
            keep_answers(path, list(self.evaluated))
        except (OSError, UserError) as error:
            warn(f"warning: {path.name} is left as it is, and nothing is added: {error}")
            return None
        config = self.config
        own = config.data if isinstance(config, ChatConfig) and not config.general else ()
        return Diary(path, self.state, self.tokenizer, own) if config.answers else None

    def answer(self, measured: Mapping[str, float]) -> None:
        """Let the model answer the same questions as ever. The other ranks wait in their next step."""

        def go_on() -> bool:
            self.watch.progress()
            return not self.stop.asked

        if self.diary:
            self.watch.at(f"answering questions at step {self.state.step}")
            self.diary.write(self.model, measured, go_on)

    def finish(self) -> None:
        """tok_per_s and pause are medians over the steps and the saves, so that compilation does not count."""
        s = self.state
        rows = read_metrics(training_file(s.stage, s.tag)) if self.machine.ranks.is_main else []
        speed = statistics.median([r["tok_per_s"] for r in rows if r["kind"] == "step"] or [0.0])
        pause = statistics.median([r["paused"] for r in rows if r["kind"] == "save"] or [0.0])
        summary = {
            "seconds": s.seconds,
            "steps": s.step,
            "tokens": s.tokens,
            "params": self.model.num_params(),
            "tok_per_s": speed,
            "save_pause": pause,
            **self.method.summary(s, speed),
            "tag": s.tag,
            **s.val,
        }
        self.writer.write("summary", **summary)
        self.writer.finish()
        self.method.farewell(s, summary, rows)


def checkpoint_bytes(model: GPT, config: TrainConfig) -> int:
    """Bytes of the newest and the pinned checkpoints and the one being written: weights and at most two moments each,
    in float32, and for tables that are updated by rows next to none. What --keep_every asks for comes on top."""
    kept = config.keep + 1 + config.keep_best + isinstance(config, BaseConfig)
    by_rows = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding) and m.sparse)
    return 4 * (3 * model.num_params() - 2 * by_rows) * kept


def _of_all_ranks(machine: Machine, value: T) -> list[T]:
    """Every rank's value, in their order."""
    values: list[Any] = [value] * machine.ranks.world
    if machine.ranks.world > 1:
        dist.all_gather_object(values, value, group=host_group())
    return values


def due(every: int, s: TrainState, times: int) -> bool:
    """Whether something is due now: every `every` steps, or (0) `times` times in a run whose horizon may move."""
    if every == 0:
        return times * s.step // s.steps > times * (s.step - 1) // s.steps
    return every > 0 and s.step % every == 0


def _diverged(s: TrainState, step: int, error: NotFiniteError, where: str) -> UserError:
    have = checkpoint.steps(s.stage, s.tag)
    good = f"The last good checkpoint is {list(have.values())[-1]}" if have else "There is no checkpoint yet"
    return UserError(
        f"{error} in step {step}, {where}",
        f"{good}; set NANOCHAT_DTYPE=float32 and go on from there",
        "Try a lower --lr_scale",
        "Try a lower --matrix_lr and --embedding_lr",
    )


def _together(error: Exception) -> Exception:
    """Mark an error that all ranks leave with at the same step, so that they can save it."""
    error.together = True  # type: ignore[attr-defined]
    return error


def _first_error(error: Exception | None, world: int) -> Exception:
    """This rank's error, else that of the first rank that has one."""
    texts: list[str | None] = [None] * world
    if world > 1:
        dist.all_gather_object(texts, str(error) if error else None, group=host_group())
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
        "sizes": s.sizes,
        "host": host(machine.device),
        "machine": machine.name,
        "dtype": str(machine.dtype).removeprefix("torch."),
        "ranks": machine.ranks.world,
        **({"learnt_from": s.settings["mixture"]} if "mixture" in s.settings else {}),  # a chat model's conversations
    }
