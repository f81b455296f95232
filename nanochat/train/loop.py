"""The one training loop: batches in, weights and metrics out. Base, mid and sft differ in what they hand to it."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from nanochat import checkpoint
from nanochat.console import Progress, UserError, duration, is_main_rank, say
from nanochat.dataset.loader import Batch, Loader, Step, merge_states
from nanochat.machine import Machine, has_compiler, peak_flops
from nanochat.metrics import read_metrics
from nanochat.model.gpt import GPT
from nanochat.optim import Optimizer, Schedule
from nanochat.paths import checkpoints_dir, require_disk, runs_dir
from nanochat.tokenizer import Tokenizer
from nanochat.train import state as states
from nanochat.train.config import Compile, TrainConfig, settings
from nanochat.train.state import TrainState
from nanochat.train.tracker import Tracker

RUNS = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft"}
CALIBRATION_STEPS = 12  # a time budget's horizon follows the speed of that many steps


@dataclass
class Job:
    """Everything one run of the loop needs. validate: name -> value of the metrics to log."""

    machine: Machine
    config: TrainConfig
    model: GPT
    tokenizer: Tokenizer
    optimizer: Optimizer
    loader: Loader
    state: TrainState
    schedule: Callable[[int], Schedule]
    validate: Callable[[GPT], dict[str, float]]
    budget: float = 0.0  # seconds; 0: state.steps is fixed


def compiled(model: GPT, mode: Compile, machine: Machine) -> Callable[..., torch.Tensor]:
    """`model.loss`, compiled where that is possible and wanted."""
    if mode == "off" or (mode == "auto" and machine.device.type == "mps"):
        return model.loss
    if not has_compiler():
        if mode == "on":
            raise UserError(
                "torch.compile needs a C++ compiler, and none is installed", "Install g++, or use --compile=off"
            )
        say("No C++ compiler found: training without torch.compile (about 1.4x slower)")
        return model.loss
    return torch.compile(model.loss, dynamic=False)


class _Stop:
    """Ctrl-C or SIGTERM: finish the step, save, leave. A second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.asked = 0.0  # when, 0: not yet
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
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
    path = runs_dir(RUNS[s.stage]) / "metrics.jsonl"
    facts = {**settings(job.config), **_facts(job)}
    writer = Tracker(path, s.step == 0, job.config.run, s.stage, facts)
    if s.step == 0:
        writer.write("settings", **facts)
    loss_fn = compiled(job.model, job.config.compile, machine)
    began, seconds_before = time.monotonic(), s.seconds
    calibrate = _Calibration(job.budget) if job.budget else None
    require_disk(checkpoints_dir(s.stage), _checkpoint_bytes(job), f"keeping the checkpoints of {s.stage} {s.tag}")
    steps = iter(job.loader)
    last_saved = s.step
    unit = s.batch_tokens
    speed = 0.0
    with _Stop() as stop, Progress(s.steps * unit, s.stage, "tokens", start=s.step * unit) as bar:
        while s.step < s.steps:
            t0 = time.monotonic()
            step = next(steps)
            waited = time.monotonic() - t0
            schedule = job.schedule(s.steps)
            try:
                loss, asked = _step(job, loss_fn, step, schedule, bool(stop.asked))
            except Exception:
                if stop.asked and s.step == last_saved:
                    raise KeyboardInterrupt from None  # Ctrl-C also ends the compiler that the first step waits for
                raise
            took = time.monotonic() - t0
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
            if asked or (_due(job.config.save_every, s, 10) and s.step < s.steps):
                _save(job)
                last_saved = s.step
            if asked:
                raise KeyboardInterrupt
            if _due(job.config.eval_every, s, 5) and s.step < s.steps:
                s.val = job.validate(job.model)
                writer.write("eval", step=s.step, tokens=s.tokens, **s.val)
                bar.advance(0, **{k: f"{v:.3f}" for k, v in s.val.items()})
    if last_saved < s.step or not checkpoint.steps(s.stage, s.tag):
        _save(job)  # a killed evaluation must not cost the training
    s.val = job.validate(job.model)
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


def _checkpoint_bytes(job: Job) -> int:
    """Weights and at most two moments each in float32, for all that are kept and the one being written."""
    return job.model.num_params() * 4 * 3 * (job.config.keep + 1)


def _due(every: int, s: TrainState, times: int) -> bool:
    """Whether something is due after this step: every so many, or (0) so many times in a run whose horizon may move."""
    if every == 0:
        return times * s.step // s.steps > times * (s.step - 1) // s.steps
    return every > 0 and s.step % every == 0


def _step(
    job: Job, loss_fn: Callable[..., torch.Tensor], step: Step, schedule: Schedule, stop: bool
) -> tuple[float, bool]:
    """Forward, backward and update. Returns the mean loss over all ranks' targets and whether any was asked to stop."""
    machine, s = job.machine, job.state
    valid = step.valid
    if machine.ranks.world > 1:
        counts = torch.tensor([valid, int(stop)], device=machine.device)
        dist.all_reduce(counts)
        valid, stop = int(counts[0]), bool(counts[1])
    total = torch.zeros((), device=machine.device)
    for batch in step.micro:
        # Divided by the targets of the whole step, not of the micro-batch: each target weighs the same.
        loss = loss_fn(*_to(machine, batch), reduction="sum") / max(1, valid)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach().float()
    if machine.ranks.world > 1:
        dist.all_reduce(total)
    value = float(total)
    if not math.isfinite(value):
        have = checkpoint.steps(s.stage, s.tag)
        good = f"The last good checkpoint is {list(have.values())[-1]}" if have else "There is no checkpoint yet"
        raise UserError(
            f"the loss became {value} in step {s.step + 1}",
            f"{good}; try lower learning rates or --dtype=float32",
        )
    job.optimizer.step(schedule, s.step)
    return value, stop


def _to(machine: Machine, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return batch.ids.to(machine.device), batch.targets.to(machine.device)


def _save(job: Job) -> None:
    s = job.state
    assert s.loader is not None
    if job.machine.ranks.world > 1:
        gathered: list[Any] = [None] * job.machine.ranks.world
        dist.all_gather_object(gathered, s.loader)
        s.loader = merge_states(gathered)
    if job.machine.ranks.is_main:
        states.save(s, job.model, job.optimizer, job.tokenizer)
        checkpoint.prune(s.stage, s.tag, job.config.keep)
    if job.machine.ranks.world > 1:
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


def _facts(job: Job) -> dict[str, Any]:
    s = job.state
    return {
        "stage": s.stage,
        "tag": s.tag,
        "model": job.model.config.to_dict(),
        "params": job.model.num_params(),
        "batch_tokens": s.batch_tokens,
        "steps": s.steps,
        "rates": asdict(job.optimizer.rates),
        "machine": job.machine.name,
        "dtype": str(job.machine.dtype).removeprefix("torch."),
        "ranks": job.machine.ranks.world,
    }


def _summary(job: Job) -> dict[str, Any]:
    """tok_per_s is the median over the steps, so that compilation and other pauses do not count."""
    s = job.state
    flops = job.model.config.shape.flops_per_token
    rows = read_metrics(runs_dir(RUNS[s.stage]) / "metrics.jsonl") if job.machine.ranks.is_main else []
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
