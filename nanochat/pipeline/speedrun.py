"""Run the stages in order; a stage that is done is skipped, one that was interrupted goes on."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from types import FrameType

from nanochat import checkpoint, lock
from nanochat.console import UserError, duration, say
from nanochat.metrics import FILE, MetricsWriter
from nanochat.paths import base_dir, report_dir, runs_dir
from nanochat.pipeline.farewell import farewell
from nanochat.pipeline.progress import StageLog, fingerprints
from nanochat.pipeline.settings import Plan, SpeedrunConfig, Stage, resolve

TRAINS = {"base_train": "base", "mid_train": "mid", "chat_sft": "sft"}
GRACE = 60.0  # seconds an interrupted stage gets to save its checkpoint


def speedrun(config: SpeedrunConfig) -> None:
    """All stages, then a short conversation with the model; see SpeedrunConfig."""
    if config.dry_run:
        log, plan = _begin(config)
        for stage, mark in zip(plan.stages, fingerprints(plan.stages), strict=True):
            state = "done" if log.is_done(stage, mark) else "to go on" if log.was_started(stage, mark) else "to run"
            say(f"  {stage.name:11} [{state}]  {stage.display(plan.nproc)}")
        return
    began = time.monotonic()
    with _alone() as handle:
        log, plan = _begin(config)
        log.save()  # with the depth chosen
        for n, (stage, mark) in enumerate(zip(plan.stages, fingerprints(plan.stages), strict=True), 1):
            head = f"[{n}/{len(plan.stages)}] {stage.name}"
            if log.is_done(stage, mark):
                say(f"{head}: done already, skipped")
                continue
            resume = stage.resumable and log.was_started(stage, mark)
            say(f"\n{head}: {stage.display(plan.nproc)}")
            if stage.name in TRAINS and not resume:
                # Before the stage counts as started: a kill in between must not mix an older run into this one.
                moved = checkpoint.set_aside(TRAINS[stage.name], plan.tag)
                if moved:
                    say(f"Kept the older run as {moved}")
            log.start(stage, mark, plan.stages[n:])
            seconds = run_stage(stage, plan, resume, handle)
            log.finish(stage, mark)
            say(f"{head}: finished in {duration(seconds)}")
    say(f"\nAll stages are done ({duration(time.monotonic() - began)} this time).")
    say(f"The report: {report_dir() / 'report.md'}\n")
    farewell(plan.corpus, plan.tag, config.world_seed)


def _begin(config: SpeedrunConfig) -> tuple[StageLog, Plan]:
    log = StageLog()
    plan = resolve(config, log.choices)
    say(f"nanochat speedrun: {plan.summary}")
    say(f"artifacts: {base_dir()}")
    return log, plan


def _alone() -> AbstractContextManager[int]:
    """Hold <base>/speedrun.lock. Stages inherit it, so one that outlives a killed speedrun holds up the next."""
    busy = f"another speedrun is at work in {base_dir()}, or a stage that it left behind"
    return lock.hold(base_dir() / "speedrun.lock", busy, GRACE)


def _command(stage: Stage, plan: Plan, resume: bool) -> list[str]:
    module = stage.module or f"scripts.{stage.name}"
    module = module.replace("scripts.", "nanochat.commands.")  # importable from any folder, unlike scripts
    args = [*stage.args, *stage.extra, *(["--resume"] if resume else [])]
    if stage.torchrun and plan.nproc > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={plan.nproc}", "-m", module, "--"]
        return [sys.executable, *launch, *args]
    return [sys.executable, "-m", module, *args]


def _end_with_parent() -> None:
    """In the child, on Linux: get SIGTERM (save and leave) when the speedrun is killed."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def run_stage(stage: Stage, plan: Plan, resume: bool, handle: int) -> float:
    """Run one stage as a process of its own and return its seconds; a failing stage ends the run with its exit code."""
    writer = MetricsWriter(runs_dir("speedrun") / FILE)
    began = time.monotonic()
    process = subprocess.Popen(_command(stage, plan, resume), pass_fds=(handle,), preexec_fn=_end_with_parent)

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGTERM, forward)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # Ctrl-C reaches the stage from the terminal too; it saves and leaves.
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
        say(f"{stage.name} interrupted; the same command goes on from here")
        raise
    finally:
        signal.signal(signal.SIGTERM, old)
    seconds = time.monotonic() - began
    status = "done" if code == 0 else f"failed ({code})"
    writer.write(
        "stage", stage=stage.name, seconds=seconds, status=status, tag=plan.tag, command=stage.display(plan.nproc)
    )
    if code == 0:
        return seconds
    if code == 2:
        raise UserError(
            f"the stage {stage.name} could not run",
            "The line above says why; finished stages stay finished, and speedrun has flags for settings: --help",
        )
    say(f"error: the stage {stage.name} failed with exit code {code}; the same command goes on from here")
    sys.exit(1 if code < 0 else code)
