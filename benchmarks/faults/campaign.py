"""One run: disturbed again and again, started again and again, and judged."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.faults import judge
from benchmarks.faults.inject import Order
from benchmarks.faults.judge import Found, Reference
from benchmarks.faults.plan import Damage, Fault, Plan
from benchmarks.faults.process import Ended, run_all
from benchmarks.faults.works import Work

CLEAN_TRIES = 2  # without faults; the first one must finish


@dataclass
class Outcome:
    """injected: the faults that struck, by name. broken: promises that were not kept, and how. repeated: steps trained
    again, and next_step: seconds from a start to its first new step, for each start after a fault. stopping: seconds
    from SIGTERM to the end of the process. log: what the programs said."""

    plan: Plan
    injected: list[str] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    next_step: list[float] = field(default_factory=list)
    stopping: list[float] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        return any(check in judge.LOSSES for check, _ in self.broken)


def make_reference(work: Work, folder: Path) -> Reference:
    """Run it undisturbed."""
    base = folder / "references" / work.name
    _copy(work.template, base)
    ended = run_all(work.programs(), base, [[] for _ in work.programs()], folder / "logs" / f"reference-{work.name}")
    found = judge.reference(base, work, ended)
    shutil.rmtree(base)
    return found


def run(plan: Plan, work: Work, wanted: Reference, folder: Path) -> Outcome:
    """Disturb a copy of the work's template. folder: for the copy and for logs, which are kept if anything is wrong."""
    base, logs = folder / f"run-{plan.number}", folder / f"logs/run-{plan.number}"
    _copy(work.template, base)
    outcome = Outcome(plan)
    spoilt: set[str] = set()
    named: dict[int, Path] = {}
    downloaded = not work.shards
    hopeless = False  # every checkpoint was damaged once
    faults = [attempt.faults for attempt in plan.tries] + [()] * CLEAN_TRIES
    for number, given in enumerate(faults):
        before = judge.look(base, work, spoilt)
        if before.finished and downloaded:
            break
        programs = work.programs()
        if before.finished:  # a download that was killed is not
            programs[0] = replace(programs[0], ready=lambda base, downloaded: False)
        done = max(0, before.newest - work.first) / (work.steps - work.first)
        orders = [
            [_order(fault, wanted, 1 - done) for fault in given if fault.process == place]
            for place in range(len(programs))
        ]
        hopeless = hopeless or bool(before.damaged and not before.whole)
        ended = run_all(programs, base, orders, logs / str(number))
        after = judge.look(base, work, spoilt)
        downloaded = downloaded or ended[-1].code == 0
        struck = [row["kind"] for one in ended for row in one.struck]
        outcome.injected += struck
        outcome.broken += judge.after_try(work, wanted, before, after, ended, named)
        _measure(outcome, number, before, after, ended, logs / str(number))
        if not given and not after.finished:
            outcome.broken.append(("finished", "it does not finish though nothing disturbs it"))
        if not after.finished and number < len(plan.tries):
            for damage in plan.tries[number].damage:
                # What is extended has no beginning to start from anew.
                if len(after.whole) > bool(work.extends) and (step := _damage(damage, after, spoilt)):
                    outcome.injected.append(damage.kind)
                    named[step[0]] = step[1]
        if outcome.lost:
            break
    outcome.broken += judge.at_the_end(base, work, wanted, hopeless)
    if not outcome.broken:
        shutil.rmtree(base)
        shutil.rmtree(logs)
    return outcome


def _copy(template: Path, base: Path) -> None:
    """Large files that nothing changes are shared."""
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(template, base)


def _order(fault: Fault, wanted: Reference, left: float) -> Order:
    """Place a fault among the calls or seconds that the undisturbed run had. left: the share that is still to come."""
    count = wanted.moments[fault.process].get(fault.at, 0) * left
    seconds = wanted.seconds[fault.process] * max(left, 0.3) * fault.share
    nth = 1 + int(fault.share * count)
    if fault.do == "hang":  # between the first step and the last one, where it is watched
        nth = 4 + int(fault.share * max(0, count - 8))
    return Order(fault.kind, fault.do, fault.at, nth, seconds, fault.part, fault.after, fault.code, fault.lasts)


def _measure(outcome: Outcome, number: int, before: Found, after: Found, ended: list[Ended], logs: Path) -> None:
    main = ended[0]
    for place, one in enumerate(ended):
        if one.code is not None:
            struck = ", ".join(row["kind"] for row in one.struck) or "no fault"
            outcome.log.append(
                f"try {number}, process {place}: {struck}; exit code {one.code}; from {sorted(before.whole)} whole and "
                f"{sorted(before.damaged)} damaged to {sorted(after.whole)} and {sorted(after.damaged)}; said in "
                f"{logs}/{place}.*"
            )
        asked = [row["time"] for row in one.struck if row["do"] == "term"]
        if asked and one.code in (75, 143):
            outcome.stopping.append(one.ended - asked[0])
    new = [row["time"] for row in after.rows if row["kind"] == "step" and row["time"] >= main.began]
    if number and main.code is not None and new:
        outcome.next_step.append(new[0] - main.began)
        first = next(row["step"] for row in after.rows if row["kind"] == "step" and row["time"] >= main.began)
        outcome.repeated.append(max(0, before.last_step - first + 1))


def _damage(damage: Damage, found: Found, spoilt: set[str]) -> tuple[int, Path] | None:
    """Change a file of a whole checkpoint; the step and the file, None when there is no checkpoint."""
    steps = sorted(found.whole, reverse=True)
    if not steps:
        return None
    # The newest one most often: the others are not even read.
    step = steps[int(damage.checkpoint**2 * len(steps))]
    folder = found.whole.pop(step)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = files[int(damage.file * len(files))]
    data = bytearray(path.read_bytes())
    at = int(damage.place * len(data))
    if damage.kind == "truncated file":
        data = data[:at]
    else:
        data[at] ^= 1 << random.Random(damage.place).randrange(8)
    # In place, but not through a second name of the file, which the other checkpoint has.
    path.unlink()
    path.write_bytes(data)
    spoilt.add(judge.digest(folder))
    return step, path
