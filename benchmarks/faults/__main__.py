"""Does a training lose anything? It is killed, frozen, told to stop and kept from writing, its checkpoints are damaged,
and the same command is started again, until it has finished.

Each run has one to three faults or more, drawn from the seed; then it goes on without any. It is compared with one that
nothing disturbed:

- Weights and the optimiser's state are equal, bit for bit, and metrics.jsonl has every step once, with the same loss.
- A checkpoint that was whole before a fault is whole after it, unless newer ones have replaced it.
- Each start goes on from the newest whole checkpoint, as found by hashing the files, and names the damaged ones.
- Exit codes are as promised, a told process ends within 30 seconds, and no half-made files are left.

The works: pretraining, extending a finished one, mid-training, fine-tuning, pretraining on two ranks, and pretraining
on shards that a second process downloads. Processes are forked from one that has imported everything, so the seconds to
the next step lack the time that imports take, which is given beside.

    python -m benchmarks.faults --runs 200 --seed 1 --json result.json
    python -m benchmarks.faults --seed 1 --only 17          # one run again, with what its programs said
"""

from __future__ import annotations

import importlib
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.faults.campaign import Outcome
    from benchmarks.faults.judge import Reference
    from benchmarks.faults.plan import Plan
    from benchmarks.faults.works import Work

WORK: dict[str, tuple[Work, Reference]] = {}  # by name; forked processes inherit it
ENOUGH = 150  # runs in which every kind of fault must have struck


@dataclass
class Config:
    runs: int = 200
    """Runs to disturb."""
    seed: int = 1
    """Decides on the faults; the same seed plans the same ones."""
    only: int = -1
    """Repeat this run alone; its files are kept. -1: all"""
    works: tuple[str, ...] = ()
    """Only these: base, extend, mid, sft, ranks, arriving."""
    kinds: tuple[str, ...] = ()
    """Only these faults, as the table names them."""
    jobs: int = 0
    """Runs at the same time; 0: one for each core."""
    json: Path | None = None
    """Write the results to this file."""


def run(config: Config) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    from benchmarks.faults.plan import KINDS, WORKS, make_plan
    from nanochat.console import UserError

    if wrong := [name for name in config.works if name not in WORKS]:
        raise UserError(f"there is no work {wrong[0]!r}", f"Choose among {', '.join(WORKS)}")
    if wrong := [name for name in config.kinds if name not in KINDS]:
        raise UserError(f"there is no fault {wrong[0]!r}", f"Choose among: {', '.join(KINDS)}")
    if not hasattr(os, "fork"):
        raise UserError("the campaign forks its processes, which this system cannot", "Run it on Linux or macOS")
    imports = _import_all()
    numbers = range(config.runs) if config.only < 0 else [config.only]
    plans = [make_plan(config.seed, number, config.works, config.kinds) for number in numbers]
    folder = Path(tempfile.mkdtemp(prefix="nanochat-faults-"))
    outcomes = _campaign(plans, folder, config)
    _conclude(config, outcomes, imports, folder)


def _import_all() -> float:
    """What the forked processes need, without a single operation of torch. Returns the seconds it took."""
    began = time.monotonic()
    for module in (
        "torch.distributed.nn.functional", "safetensors.torch", "pyarrow.parquet", "pyarrow.compute", "tyro",
        "nanochat.commands.dataset", "nanochat.commands.tok_train", "nanochat.corpus.corpora", "nanochat.train.base",
        "nanochat.train.chat",
    ):  # fmt: skip
        importlib.import_module(module)
    return time.monotonic() - began


def _campaign(plans: Sequence[Plan], folder: Path, config: Config) -> list[Outcome]:
    from benchmarks.faults import campaign, hub, works
    from nanochat.console import Progress, say
    from nanochat.machine import cpu_count

    names = sorted({plan.work for plan in plans})
    works.prepare(folder)
    server, url = hub.serve(folder / "hub" / hub.REPO)
    outcomes: list[Outcome] = []
    try:
        made = works.make_works(folder, names, url)
        references = {name: campaign.make_reference(work, folder) for name, work in made.items()}
        WORK.update({name: (work, references[name]) for name, work in made.items()})
        with ProcessPoolExecutor(config.jobs or cpu_count(), get_context("fork")) as pool:
            # Before the bar has a thread: the first call forks all processes.
            waiting: list[Future[Outcome]] = [pool.submit(_one, plan, folder) for plan in plans]
            with Progress(len(plans), "faults", "runs") as bar:
                for done in as_completed(waiting):
                    outcomes.append(done.result())
                    lost = sum(outcome.lost for outcome in outcomes)
                    faults = sum(len(outcome.injected) for outcome in outcomes)
                    bar.advance(1, faults=f"{faults:,}", lost=str(lost))
                    if outcomes[-1].broken or config.only >= 0:
                        _tell(outcomes[-1], config, say)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    return sorted(outcomes, key=lambda outcome: outcome.plan.number)


def _one(plan: Plan, folder: Path) -> Outcome:
    """In a process of the pool."""
    from benchmarks.faults import campaign

    return campaign.run(plan, *WORK[plan.work], folder)


def _tell(outcome: Outcome, config: Config, say: Any) -> None:
    plan = outcome.plan
    say(f"run {plan.number} of seed {config.seed} ({plan.work}):")
    for attempt in plan.tries:
        say(f"  planned: {', '.join(map(str, (*attempt.faults, *attempt.damage)))}")
    for line in outcome.log:
        say(f"  {line}")
    for check, problem in outcome.broken:
        say(f"  {check}: NO: {problem}")
    chosen = "".join(f" --{name} {' '.join(map(repr, value))}" for name, value in
                     (("works", config.works), ("kinds", config.kinds)) if value)  # fmt: skip
    say(f"  again: python -m benchmarks.faults --seed {config.seed} --only {plan.number}{chosen}")


def _conclude(config: Config, outcomes: list[Outcome], imports: float, folder: Path) -> None:
    import shutil

    from benchmarks.faults.judge import CHECKS
    from benchmarks.faults.plan import KINDS, WORKS
    from benchmarks.result import BenchmarkResult, median
    from nanochat.console import say

    kinds: dict[str, Counter[str]] = {kind: Counter(injected=0, recovered=0, lost=0) for kind in KINDS}
    for outcome in outcomes:
        end = "lost" if outcome.lost else "broken" if outcome.broken else "recovered"
        for kind in outcome.injected:
            kinds[kind].update(["injected", end])
    table = {kind: dict(counts) for kind, counts in kinds.items() if counts["injected"]}
    repeated = [steps for outcome in outcomes for steps in outcome.repeated]
    next_step = [seconds for outcome in outcomes for seconds in outcome.next_step]
    stopping = [seconds for outcome in outcomes for seconds in outcome.stopping]
    ours: dict[str, Any] = {
        "runs": len(outcomes),
        **{name: sum(row.get(name, 0) for row in table.values()) for name in ("injected", "recovered", "lost")},
        "runs_lost": sum(outcome.lost for outcome in outcomes),
        "kinds": table,
        "works": dict(Counter(outcome.plan.work for outcome in outcomes)),
        "starts": len(next_step),
        "steps_repeated": median(repeated) if repeated else 0.0,
        "steps_repeated_most": max(repeated, default=0),
        "seconds_to_next_step": median(next_step) if next_step else 0.0,
        "seconds_to_import": imports,
        "seconds_to_stop": median(stopping) if stopping else 0.0,
        "seconds_to_stop_most": max(stopping, default=0.0),
    }
    failed = {check for outcome in outcomes for check, _ in outcome.broken}
    checks = {check: check not in failed for check in CHECKS}
    if len(outcomes) >= ENOUGH and not config.works and not config.kinds:
        checks["every_kind_struck"] = len(table) == len(KINDS)
    say(f"{'fault':<28} {'injected':>8} {'recovered':>9} {'lost':>5}")
    for kind, row in table.items():
        say(f"{kind:<28} {row['injected']:8} {row['recovered']:9} {row['lost']:5}")
    say(f"{'all':<28} {ours['injected']:8} {ours['recovered']:9} {ours['lost']:5}")
    done = ", ".join(f"{name} {ours['works'].get(name, 0)}" for name in WORKS)
    say(
        f"{len(outcomes)} runs ({done}); after a fault "
        f"{ours['steps_repeated']:.0f} steps are trained again (at most {ours['steps_repeated_most']}), and the next "
        f"one is done after {ours['seconds_to_next_step']:.2f} s, {imports:.1f} s of imports not included; after "
        f"SIGTERM the program ends in {ours['seconds_to_stop']:.2f} s (at most {ours['seconds_to_stop_most']:.2f} s)"
    )
    if failed or config.only >= 0:
        say(f"files and logs: {folder}")
    else:
        shutil.rmtree(folder)
    settings = {"runs": config.runs, "seed": config.seed}
    BenchmarkResult("faults", ours, {}, {}, checks, settings).conclude(config.json)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.faults")
