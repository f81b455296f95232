"""The one training loop: batches in, weights and metrics out. Base, mid and sft differ in what they hand to it."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from nanochat import checkpoint
from nanochat.console import Progress, UserError, duration, is_main_rank, say
from nanochat.feed.loader import Ahead, Loader, Step, merge_states
from nanochat.machine import Machine, has_compiler, peak_flops, release_memory
from nanochat.metrics import read_metrics, training_file
from nanochat.model.gpt import GPT
from nanochat.optim import Optimizer, Schedule
from nanochat.paths import checkpoints_dir, require_disk
from nanochat.tokenizer import Tokenizer
from nanochat.train import state as states
from nanochat.train.config import Compile, TrainConfig, settings
from nanochat.train.state import TrainState
from nanochat.train.step import LossScale, NotFiniteError, Stepper
from nanochat.train.tracker import Tracker

WAIT = 1.0  # seconds that a rank waits for its loader before it looks at what the person and the other ranks want
CALIBRATION_STEPS = 12  # a time budget's horizon follows the speed of that many steps


@dataclass
class Job:
    """Everything one run of the loop needs. validate: name -> value of the metrics to log; it tells the tokens
    of every batch that is done."""

    machine: Machine
    config: TrainConfig
    model: GPT
    tokenizer: Tokenizer
    optimizer: Optimizer
    loader: Loader
    state: TrainState
    schedule: Callable[[int], Schedule]
    validate: Callable[[GPT, Callable[[int], None]], dict[str, float]]
    budget: float = 0.0  # seconds; 0: state.steps is fixed


def compiles(mode: Compile, machine: Machine) -> bool:
    """Whether torch.compile is possible and wanted."""
    if mode == "on" and not has_compiler():
        raise UserError("torch.compile needs a C++ compiler, and none is installed", "Install g++", "Use --compile=off")
    return mode == "on" or (mode == "auto" and machine.device.type != "mps" and has_compiler())


def compiled(model: GPT, mode: Compile, machine: Machine) -> Callable[..., torch.Tensor]:
    """`model.loss`, compiled as a whole on a GPU and in parts on a CPU, where compiling takes long."""
    if not compiles(mode, machine):
        if mode == "auto" and not has_compiler():
            say("No C++ compiler found: training without torch.compile (about 1.4x slower)")
        return model.loss
    say("Compiling with the first steps: half a minute or more, unless torch's cache has it")
    if machine.device.type == "cpu":
        model.compile_parts()
        return model.loss
    return torch.compile(model.loss, dynamic=False)


class Stop:
    """Ctrl-C or SIGTERM: finish the step or stop waiting for it, save, leave. A second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.asked = 0.0  # when, 0: not yet
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            # Terminals, schedulers and launchers often deliver one wish twice: only a later Ctrl-C is a second one.
            if number == signal.SIGINT and time.monotonic() - self.asked > 1:
                raise KeyboardInterrupt
            return
        self.asked = time.monotonic()
        if is_main_rank():
            with contextlib.suppress(OSError):  # print is not safe in a handler, and the reader may be gone
                os.write(1, b"\nStopping after this step; the checkpoint is saved first (Ctrl-C again: at once)\n")

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def train(job: Job) -> TrainState:
    """Run to the horizon, or until interrupted (KeyboardInterrupt, after saving). Saves before it evaluates."""
    s, machine = job.state, job.machine
    facts = {**run_facts(machine, s, job.model, job.config), "batch_tokens": s.batch_tokens}
    writer = Tracker(training_file(s.stage, s.tag), job.config.run, s.stage, facts)
    if s.step == 0:
        writer.write("settings", **facts)
    scale = LossScale(s.loss_scale, s.good_steps)
    stepper = Stepper(machine, job.model, job.optimizer, compiled(job.model, job.config.compile, machine), scale)
    began, seconds_before = time.monotonic(), s.seconds
    calibrate = _Calibration(job.budget) if job.budget else None
    need = checkpoint_bytes(job.model, job.config)
    require_disk(checkpoints_dir(s.stage), need, f"keeping the checkpoints of {s.stage} {s.tag}")
    last_saved = s.step
    unit = s.batch_tokens
    speed, started = 0.0, 0
    with Progress(s.steps * unit, s.stage, "tokens", start=s.step * unit) as bar:
        with Stop() as stop, contextlib.closing(job.loader.ahead()) as ahead:
            while s.step < s.steps:
                t0 = time.monotonic()
                found = _next(machine, ahead, stop, lambda waited: over(job.config, s, s.seconds + waited))
                if isinstance(found, BaseException):
                    if last_saved < s.step:
                        _save(job)
                    writer.finish()
                    raise found
                step, valid = found
                waited = time.monotonic() - t0
                schedule = job.schedule(s.steps)
                try:
                    loss = stepper(step, valid, schedule, s.step)
                    s.loss_scale, s.good_steps = scale.value, scale.good
                except NotFiniteError as error:
                    raise diverged(
                        s, error, f"with the batch that ends at row {step.state['row']} of the text"
                    ) from None
                except Exception:
                    if stop.asked and s.step == last_saved:
                        raise KeyboardInterrupt from None  # Ctrl-C also ends the compiler that the first step waits for
                    raise
                took = time.monotonic() - t0
                if started < 2:  # these compiled; the second, too, where matrices take turns
                    release_memory()
                    started += 1
                s.step += 1
                s.tokens += unit
                s.seconds = seconds_before + time.monotonic() - began
                s.loss = loss if s.step == 1 else 0.9 * s.loss + 0.1 * loss
                speed = unit / took if not speed else 0.8 * speed + 0.2 * unit / took
                s.loader = step.state
                bar.advance(unit, loss=f"{s.loss:.3f}", **{"tok/s": f"{speed:,.0f}"})
                rate = schedule.rate(s.step - 1)
                writer.write(
                    "step",
                    step=s.step,
                    loss=loss,
                    tokens=s.tokens,
                    lr=rate,
                    tok_per_s=unit / took,
                    waited=waited,
                    seconds=s.seconds,
                )
                if calibrate:
                    s.steps = calibrate.horizon(s, took)
                    bar.total = s.steps * unit
                if due(job.config.save_every, s, 10) and s.step < s.steps:
                    _save(job)
                    last_saved = s.step
                if due(job.config.eval_every, s, 5) and s.step < s.steps:
                    s.val = _validate(job, bar)
                    writer.write("eval", step=s.step, tokens=s.tokens, **s.val)
                    bar.advance(0, **{k: f"{v:.3f}" for k, v in s.val.items()})
        if last_saved < s.step or not checkpoint.steps(s.stage, s.tag):
            _save(job)  # a killed evaluation must not cost the training
        s.val = _validate(job, bar)
    s.seconds = seconds_before + time.monotonic() - began
    writer.write("eval", step=s.step, tokens=s.tokens, **s.val)
    summary = _summary(job)
    writer.write("summary", **summary)
    writer.finish()
    val = "  ".join(f"{k} {v:.4f}" for k, v in s.val.items())
    say(
        f"{s.stage}: {s.step} steps, {s.tokens:,} tokens in {duration(s.seconds)}, loss {s.loss:.3f}, {val}, "
        f"{summary['tok_per_s']:,.0f} tok/s, MFU {summary['mfu']:.0%}"
    )
    return s


def _validate(job: Job, bar: Progress) -> dict[str, float]:
    done = 0

    def tell(tokens: int) -> None:
        nonlocal done
        done += tokens
        bar.advance(0, validating=f"{done:,}")

    found = job.validate(job.model, tell)
    bar.fields.pop("validating", None)
    return found


def checkpoint_bytes(model: GPT, config: TrainConfig) -> int:
    """Weights and at most two moments each in float32, for all that are kept and the one being written."""
    return model.num_params() * 4 * 3 * (config.keep + 1)


def due(every: int, s: TrainState, times: int) -> bool:
    """Whether something is due after this step: every so many, or (0) so many times in a run whose horizon may move."""
    if every == 0:
        return times * s.step // s.steps > times * (s.step - 1) // s.steps
    return every > 0 and s.step % every == 0


def over(config: TrainConfig, s: TrainState, seconds: float) -> UserError | None:
    """What to say when the time or the money that this training may take has been taken."""
    hours = seconds / 3600
    if config.max_hours and hours >= config.max_hours:
        limit = f"--max_hours={config.max_hours:g}"
    elif config.max_dollars and hours * config.price_per_hour >= config.max_dollars:
        limit = f"--max_dollars={config.max_dollars:g}"
    else:
        return None
    where = f"at step {s.step} of {s.steps}, which is saved" if s.step else "before any step"
    return UserError(f"{limit} is reached {where}", "Go on with --resume and a higher limit")


def diverged(s: TrainState, error: NotFiniteError, where: str) -> UserError:
    have = checkpoint.steps(s.stage, s.tag)
    good = f"The last good checkpoint is {list(have.values())[-1]}" if have else "There is no checkpoint yet"
    return UserError(
        f"{error} in step {s.step + 1}, {where}",
        f"{good}; set NANOCHAT_DTYPE=float32 and go on from there",
        "Try a lower --lr_scale",
        "Try a lower --matrix_lr and --embedding_lr",
    )


def _next(
    machine: Machine, ahead: Ahead, stop: Stop, limit: Callable[[float], UserError | None]
) -> tuple[Step, int] | BaseException:
    """This rank's part of the next step and the targets of all ranks' parts, once every rank has its own.

    Until then the ranks tell each other every WAIT seconds how they are: so no collective lasts longer (they time out),
    and when one was asked to stop or its loader failed, all return that, to leave together.
    """
    step: Step | None = None
    error: Exception | None = None
    began = time.monotonic()
    while True:
        if step is None:
            try:
                step = ahead.get(WAIT)
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


def _save(job: Job) -> None:
    s = job.state
    assert s.loader is not None
    if job.machine.ranks.world > 1:
        gathered: list[Any] = [None] * job.machine.ranks.world
        dist.all_gather_object(gathered, s.loader)
        s.loader = merge_states(gathered)
    write_checkpoint(job.machine, s, job.model, job.optimizer, job.tokenizer, job.config.keep)


def write_checkpoint(
    machine: Machine, s: TrainState, model: GPT, optimizer: Optimizer, tokenizer: Tokenizer, keep: int
) -> None:
    """Save the current step and delete all but the newest `keep`; every rank calls it, the first one writes."""
    tensors = optimizer.state_dict()  # of which every rank may have a part
    if machine.ranks.is_main:
        states.save(s, model, tensors, tokenizer)
        checkpoint.prune(s.stage, s.tag, keep)
    if machine.ranks.world > 1:
        dist.barrier()


class _Calibration:
    """Keeps the horizon of a time budget true: seconds left over seconds per step, looked at again and again, since a
    machine that others use too does not stay as fast as it was in its first steps."""

    def __init__(self, budget: float):
        self.budget = budget
        self.times: deque[float] = deque(maxlen=CALIBRATION_STEPS)

    def horizon(self, s: TrainState, took: float) -> int:
        """Steps in all. Ranks ask after the same steps, and the first one answers."""
        self.times.append(took)
        if len(self.times) < CALIBRATION_STEPS:
            return max(s.steps, s.step + CALIBRATION_STEPS)
        if s.step % CALIBRATION_STEPS:
            return s.steps
        left = 0.97 * self.budget - s.seconds  # 3%: the last validation and checkpoint
        n = s.step + max(0, int(left / statistics.median(self.times)))
        if dist.is_initialized():
            shared = torch.tensor(n).to("cuda" if dist.get_backend() == "nccl" else "cpu")
            dist.broadcast(shared, 0)
            n = int(shared)
        return n


def run_facts(machine: Machine, s: TrainState, model: GPT, config: TrainConfig) -> dict[str, Any]:
    """What the metrics say about a run, its settings first."""
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


def _summary(job: Job) -> dict[str, Any]:
    """tok_per_s is the median over the steps, so that compilation and other pauses do not count."""
    s = job.state
    flops = job.model.config.flops_per_token
    rows = read_metrics(training_file(s.stage, s.tag)) if job.machine.ranks.is_main else []
    speed = statistics.median([r["tok_per_s"] for r in rows if r["kind"] == "step"] or [0.0])
    return {
        "seconds": s.seconds,
        "steps": s.step,
        "tokens": s.tokens,
        "params": job.model.num_params(),
        "loss": s.loss,
        "tok_per_s": speed,
        "flops": flops * s.tokens,
        "mfu": speed * flops / (peak_flops(job.machine) * job.machine.ranks.world),
        "tag": s.tag,
        **s.val,
    }
