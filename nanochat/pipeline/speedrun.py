"""Run the stages in order; a stage that is done is skipped, one that was interrupted goes on."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Container, Set
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from nanochat import checkpoint, lock
from nanochat.console import CALLERS_FLAGS, INTERRUPTED, LimitReachedError, UserError, duration, say
from nanochat.corpus import HUB_CORPORA, find_info
from nanochat.hub import Order, Unit, backed_up, command_line, require_backup
from nanochat.metrics import FILE, MetricsWriter, read_metrics, training_file
from nanochat.paths import STAGES, base_dir, report_dir, runs_dir
from nanochat.pipeline.farewell import farewell, python
from nanochat.pipeline.own_chats import OwnChats
from nanochat.pipeline.progress import StageLog, digest, fingerprints, needs
from nanochat.pipeline.settings import SpeedrunConfig, earlier, general, resolve
from nanochat.pipeline.spending import NOTE, Bill
from nanochat.pipeline.stages import Plan, Stage

# Exit codes of a stage that somebody stopped: it saved, or it can be done again.
STOPPED = {INTERRUPTED, 130, 143, -signal.SIGINT, -signal.SIGTERM}
READ_TEXT = {"tok_train", "tok_eval", "base_train", "base_loss", "base_eval"}
GRACE = 60.0  # seconds an interrupted stage gets to save its checkpoint


def speedrun(config: SpeedrunConfig) -> None:
    """All stages, then a short conversation with the model; see SpeedrunConfig."""
    require_backup(config.backup, config.on_finish)
    if config.dry_run:
        log, plan = _begin(config)
        marks = fingerprints(plan.stages)
        show_stages(log, plan, marks, {stage.name for stage in _replaced(log, plan, marks)})
        bill = _bill(config, log, plan, marks)
        if bill.seconds:
            say(f"  So far this run has taken {bill}.")
        return
    began = time.monotonic()
    with _alone() as handle, backed_up(config.backup, config.on_finish) as keep:
        log, plan = _begin(config)
        log.save()  # with the depth chosen
        marks = fingerprints(plan.stages)
        _decide(config, log, plan, marks)
        bill = _bill(config, log, plan, marks)
        plan = replace(plan, bill=bill)
        keep(Order([Unit(stage, plan.tag) for stage in STAGES], plan.corpus, True, command_line()))
        say(f"Watch it meanwhile in another terminal: {python()} -m nanochat watch (a page; --plain: there)")
        run_stages(log, plan, marks, handle)
        bill.note()
        say(f"\nAll stages are done ({duration(time.monotonic() - began)} this time; its stages in all: {bill}).")
        say(f"The report: {report_dir() / 'report.html'}, and report.md beside it\n")
        alone = any("--no_general" in stage.args for stage in plan.stages)
        own = OwnChats.read(config.data).prompts() if alone else []
        farewell(plan.corpus, plan.tag, config.world_seed, own)


def run_stages(log: StageLog, plan: Plan, marks: list[str], handle: int) -> None:
    """Run what is not done. handle: of the lock that a stage inherits."""
    for n, (stage, mark) in enumerate(zip(plan.stages, marks, strict=True), 1):
        head = f"[{n}/{len(plan.stages)}] {stage.name}"
        if log.is_done(stage, mark):
            say(f"{head}: done already, skipped")
            log.know(stage)
            left = zip(plan.stages[n:], marks[n:], strict=True)
            if stage.name == "dataset" and _lacks_text(plan, {s.name for s, mark in left if not log.is_done(s, mark)}):
                say(f"{head}: its text is not on this machine, as after a restore: getting it again")
                run_stage(stage, plan, False, handle)
                log.accept(stage, ())
            continue
        if plan.bill and (limit := plan.bill.reached()):
            raise limit
        parents = [need for need in needs(plan.stages, n - 1) if need.trains]
        if stage.trains and parents:
            # By hash: another training may put another model there before this stage reads it.
            stage = replace(stage, extra=(*stage.extra, f"--parent_hash={log.left[parents[0].name]}"))
        resume = stage.resumable and log.was_started(stage, mark)
        say(f"\n{head}: {stage.display(plan.nproc)}")
        if stage.trains and not resume:
            # Before the stage counts as started: a kill in between must not mix an older run into this one.
            busy = f"another training of {stage.trains} {plan.tag} is at work"
            with lock.hold(checkpoint.lock_file(stage.trains, plan.tag), busy, GRACE):
                moved = checkpoint.set_aside(stage.trains, plan.tag)
            if moved:
                say(f"Kept the older run as {moved}")
        log.start(stage, mark, plan.stages[n:])
        seconds = run_stage(stage, plan, resume, handle)
        log.finish(stage, mark)
        say(f"{head}: finished in {duration(seconds)}")


def _lacks_text(plan: Plan, to_run: Set[str]) -> bool:
    """Whether downloaded text is absent that a stage still to run reads: a backup holds only its description."""
    info = find_info(plan.corpus) if plan.corpus in HUB_CORPORA and to_run & READ_TEXT else None
    return info is not None and not all((info.folder / shard.file).is_file() for shard in info.shards)


def show_stages(log: StageLog, plan: Plan, marks: list[str], replaced: Container[str] = ()) -> None:
    """One line for each, with what would become of it. replaced: names of stages whose output was replaced."""
    for stage, mark in zip(plan.stages, marks, strict=True):
        state = "done" if log.is_done(stage, mark) else "to go on" if log.was_started(stage, mark) else "to run"
        state = "replaced" if stage.name in replaced else state
        say(f"  {stage.name:11} [{state}]  {stage.display(plan.nproc)}")


def _begin(config: SpeedrunConfig) -> tuple[StageLog, Plan]:
    log = StageLog()
    config = _with_general(config, log)
    plan = _begun_earlier(config, log) or resolve(config, log.choices)
    say(f"nanochat speedrun: {plan.summary}")
    if plan.length:
        say(f"pretraining: {plan.length}")
    say(f"artifacts: {base_dir()}")
    return log, plan


def _bill(config: SpeedrunConfig, log: StageLog, plan: Plan, marks: list[str]) -> Bill:
    """Of this run: another pretraining has another bill."""
    run = next((mark for stage, mark in zip(plan.stages, marks, strict=True) if stage.trains), marks[-1])
    spent = log.spent.setdefault(run, {})
    return Bill(spent, log.save, config.max_hours, config.max_dollars, config.price_per_hour)


def _begun_earlier(config: SpeedrunConfig, log: StageLog) -> Plan | None:
    """The plan of a version with another default, if the same command began its pretraining here: that may be a night's
    work."""
    plan = earlier(config)
    if plan is None:
        return None
    marks = {stage.name: mark for stage, mark in zip(plan.stages, fingerprints(plan.stages), strict=True)}
    if log.started.get("base_train") != marks["base_train"]:
        return None
    say(f"An earlier version began {plan.tag} here with its own default: going on with that (--recipe begins another)")
    return plan


def _with_general(config: SpeedrunConfig, log: StageLog) -> SpeedrunConfig:
    """With general conversations, if the same command began to learn them: earlier versions always did."""
    if config.general != "auto" or general(config) or "mid_train" not in log.started:
        return config
    begun = replace(config, general="yes")
    for plan in filter(None, (earlier(begun), resolve(begun, log.choices))):
        marks = {stage.name: mark for stage, mark in zip(plan.stages, fingerprints(plan.stages), strict=True)}
        if log.started["mid_train"] == marks["mid_train"]:
            say("This was begun with general conversations: going on with them (--general no learns yours alone)")
            return begun
    return config


def _replaced(log: StageLog, plan: Plan, marks: list[str]) -> list[Stage]:
    """Finished stages whose output has been replaced and is needed by a stage still to run."""
    done = [log.is_done(stage, mark) for stage, mark in zip(plan.stages, marks, strict=True)]
    needed = {need.name for n, is_done in enumerate(done) if not is_done for need in needs(plan.stages, n)}
    finished = (stage for stage, is_done in zip(plan.stages, done, strict=True) if is_done)
    return [stage for stage in finished if stage.name in needed and log.is_replaced(stage)]


def _decide(config: SpeedrunConfig, log: StageLog, plan: Plan, marks: list[str]) -> None:
    """Follow --replaced where a needed model, tokenizer or text has been replaced."""
    while replaced := _replaced(log, plan, marks):
        stage = replaced[0]
        later = plan.stages[plan.stages.index(stage) + 1 :]
        what = f"the {stage.trains} model {plan.tag}" if stage.trains else f"what {stage.name} left"
        now = (
            f"{what} is not the one that an earlier speedrun made (it was {log.left[stage.name]}, now {digest(stage)})"
        )
        if config.replaced == "stop":
            aside = _set_aside(stage, plan.tag, log.left[stage.name])
            raise UserError(
                f"{now}{f'; the earlier one is now {aside}' if aside else ''}",
                "Add --replaced=use to go on from what is there now, or --replaced=retrain to make it again",
            )
        say(f"{now}: {'going on from it' if config.replaced == 'use' else 'making it again'}")
        if config.replaced == "use":
            log.accept(stage, later)
        else:
            log.forget(stage)


def _set_aside(stage: Stage, tag: str, weights: str) -> Path | None:
    """Where a model with these weights was moved to when another one of its tag was trained."""
    if not stage.trains:
        return None
    for path in base_dir().glob(stage.output.replace(f"/{tag}/", f"/{tag}.previous-*/")):
        with suppress(UserError):
            if checkpoint.read_manifest(path.parent).hash == weights:
                return path.parent.parent
    return None


def _alone() -> AbstractContextManager[int]:
    """Hold <base>/speedrun.lock. Stages inherit it, so a stage that outlives a killed speedrun blocks the next one."""
    busy = f"another speedrun is at work in {base_dir()}, or a stage that it left behind"
    return lock.hold(base_dir() / "speedrun.lock", busy, GRACE)


def _command(stage: Stage, plan: Plan, resume: bool) -> list[str]:
    module = stage.module or f"scripts.{stage.name}"
    module = module.replace("scripts.", "nanochat.commands.")  # importable from any folder, unlike scripts
    args = [*stage.args, *stage.extra, *(["--resume"] if resume else [])]
    if stage.torchrun and plan.nproc > 1:
        launch = [
            "-m",
            "nanochat.pipeline.launch",
            "--standalone",
            f"--nproc_per_node={plan.nproc}",
            "-m",
            module,
            "--",
        ]
        return [sys.executable, *launch, *args]
    return [sys.executable, "-m", module, *args]


def _end_with_parent() -> None:
    """In the child, on Linux: get SIGTERM (save and leave) when the speedrun is killed."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def run_stage(stage: Stage, plan: Plan, resume: bool, handle: int) -> float:
    """Run one stage as a process of its own and return its seconds; a failing stage ends the run with its exit code,
    one that was stopped with KeyboardInterrupt."""
    writer = MetricsWriter(runs_dir("speedrun") / FILE)
    began, before = time.monotonic(), _written(stage, plan.tag)
    told = {**os.environ, CALLERS_FLAGS: " ".join(plan.flags)}
    process = subprocess.Popen(_command(stage, plan, resume), pass_fds=(handle,), preexec_fn=_end_with_parent, env=told)

    def forward(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)
        raise KeyboardInterrupt

    def record(status: str) -> float:
        seconds = time.monotonic() - began
        spent = {"spent_seconds": plan.bill.seconds, "spent_dollars": plan.bill.dollars} if plan.bill else {}
        facts = {"status": status, "tag": plan.tag, "command": stage.display(plan.nproc), **spent}
        writer.write("stage", stage=stage.name, seconds=seconds, **facts)
        return seconds

    old = signal.signal(signal.SIGTERM, forward)
    try:
        code, limit = _wait(process, stage, plan.bill)
    except KeyboardInterrupt:
        # From a terminal the stage gets Ctrl-C, too; else it is told. It saves and exits.
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        _end(process)
        if plan.bill:
            plan.bill.note()
        with suppress(UserError):  # a full disk
            record("interrupted")
        raise
    finally:
        signal.signal(signal.SIGTERM, old)
    seconds = record("done" if code == 0 else "interrupted" if code in STOPPED else f"failed ({code})")
    if code == 0:
        return seconds
    if limit and code in {*STOPPED, -signal.SIGKILL}:
        if _written(stage, plan.tag) != before:  # else it took no step: what a killed attempt lost is lost anyway
            _require_saved(stage, plan.tag, limit)
        raise limit
    if code in STOPPED:  # the stage alone: the next one must not start on half a model
        say(f"the stage {stage.name} was stopped")
        raise KeyboardInterrupt
    if code == 2:
        raise UserError(
            f"the stage {stage.name} could not run",
            "See the line above for why, and --help for all flags; finished stages stay finished",
        )
    say(f"error: the stage {stage.name} failed with exit code {code}; run the same command to go on")
    sys.exit(1 if code < 0 else code)


def _wait(process: subprocess.Popen[bytes], stage: Stage, bill: Bill | None) -> tuple[int, LimitReachedError | None]:
    """The stage's exit code, and the limit that ended it, if one did."""
    while bill:
        try:
            code = process.wait(min(NOTE, max(0.05, bill.left)))
            bill.note()
            return code, None
        except subprocess.TimeoutExpired:
            bill.note()
        if limit := bill.reached():
            say(f"\n{limit.problem}: {stage.name} is told to {'save and ' if stage.trains else ''}stop")
            _end(process)
            bill.note()
            return process.returncode, bill.reached()
    return process.wait(), None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a stage save and end. One that hangs is killed: a machine costs, and a training saves long before."""
    for ask in (process.terminate, process.terminate, process.kill):
        if process.poll() is None:
            ask()
        with suppress(subprocess.TimeoutExpired):
            process.wait(None if ask == process.kill else GRACE)


def _written(stage: Stage, tag: str) -> tuple[int, int, int]:
    """Changes whenever a training writes its metrics."""
    with suppress(OSError):
        if stage.trains:
            file = training_file(stage.trains, tag).stat()
            return file.st_ino, file.st_size, file.st_mtime_ns
    return 0, 0, 0


def _require_saved(stage: Stage, tag: str, limit: LimitReachedError) -> None:
    """UserError when a training took steps that no checkpoint has: then nothing may end this machine."""
    rows = read_metrics(training_file(stage.trains, tag))
    taken = max((row["step"] for row in rows if row["kind"] == "step"), default=0)
    saved = max(checkpoint.steps(stage.trains, tag), default=0)
    if taken > saved:
        problem = f"{limit.problem}, but of {taken:,} steps of {stage.name} only {saved:,} are saved"
        raise UserError(problem, "See above for why; the same command with a higher limit goes on from there")
