"""How a training is: its newest figures, how long and how much money it still takes, and what should worry one."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from nanochat import gpus
from nanochat.console import UserError
from nanochat.report.records import Record
from nanochat.report.values import digits, line, number, size, span
from nanochat.serve.watch_course import Course
from nanochat.serve.watch_runs import checkpoint_bytes, free_bytes, is_at_work

RECENT = 50  # steps that say how fast it is now
SMOOTHING = 0.95  # share of what was before, in the smoothed loss
LEAST, FIRST = 30.0, 1800.0  # seconds that are never a stall; that the first steps, which compile, may take
TIMES = 10  # the usual time between two steps
LOW_DISK = 1e9  # bytes
KNOWN = {"time", "kind", "step", "tokens", "version"}


@dataclass(frozen=True)
class Alert:
    """kind: stall, jump, loss or disk."""

    kind: str
    text: str
    step: int | None = None


@dataclass(frozen=True)
class Status:
    """state: waiting (no step yet), running, stopped or finished. Times in seconds, memory and disk in bytes, money in
    dollars, lr and mfu as shares; None for what the run does not tell.

    measured: the newest evaluation, at step `measured_at`. idle: since the newest row. about: the price is the
    table's, and nobody told the real one.
    """

    name: str
    stage: str
    tag: str
    state: str
    machine: str = ""
    ranks: int = 1
    dataset: str = ""
    params: float | None = None
    step: int = 0
    steps: int | None = None
    share: float | None = None
    tokens: float | None = None
    loss: float | None = None
    smoothed: float | None = None
    reward: float | None = None
    measured: dict[str, float] = field(default_factory=dict)
    measured_at: int | None = None
    lr: float | None = None
    tok_per_s: float | None = None
    mfu: float | None = None
    memory: float | None = None
    seconds: float | None = None
    eta: float | None = None
    price: float | None = None
    about: bool = False
    cost: float | None = None
    cost_in_all: float | None = None
    free: float | None = None
    idle: float | None = None
    alerts: list[Alert] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def status(name: str, course: Course, price: float = 0.0, now: float | None = None) -> Status:
    """price: dollars per hour of the whole machine; 0: what the training was told, else the table's for its cards."""
    now = time.time() if now is None else now
    settings = {**course.settings, **course.resumed}
    last = course.steps[-1] if course.steps else {}
    recent = course.steps[-RECENT:]
    at_work = course.summary is None and is_at_work(course.stage, course.tag)
    idle = max(0.0, now - course.told) if course.told else None
    limit = _patience(course)
    step, steps = int(last.get("step", 0)), number(settings.get("steps"))
    seconds = number((course.summary or last).get("seconds"))
    eta, share, steps = _time_left(settings, recent, step, steps, seconds)
    if course.summary is not None:
        state, eta, share = "finished", 0.0, 1.0
    elif not at_work and (idle is None or idle > limit):
        state = "stopped"
    else:
        state = "running" if recent else "waiting"
    ranks = int(number(settings.get("ranks")) or 1)
    hourly, about = _price(settings, ranks, price)
    cost = None if hourly is None or seconds is None else seconds / 3600 * hourly
    measured = course.evals[-1] if course.evals else {}
    free = _free()
    return Status(
        name,
        line(course.stage),
        line(course.tag),
        state,
        machine=line(settings.get("machine", "")),
        ranks=ranks,
        dataset=line(settings.get("dataset", "")),
        params=number(settings.get("params")),
        step=step,
        steps=None if steps is None else int(steps),
        share=share,
        tokens=number(last.get("tokens")),
        loss=number(last.get("loss")),
        smoothed=_smoothed(course),
        reward=number(last.get("reward")),
        measured={line(k): n for k, v in measured.items() if k not in KNOWN and (n := number(v)) is not None},
        measured_at=int(measured["step"]) if measured else None,
        lr=number(last.get("lr")),
        tok_per_s=_median(recent, "tok_per_s"),
        mfu=_median(recent, "mfu"),
        memory=number(last.get("memory")),
        seconds=seconds,
        eta=eta,
        price=hourly,
        about=about,
        cost=cost,
        cost_in_all=None if cost is None or eta is None or hourly is None else cost + eta / 3600 * hourly,
        free=free,
        idle=idle,
        alerts=_alerts(course, at_work, idle, limit, free),
    )


def _median(rows: list[Record], name: str) -> float | None:
    found = [row[name] for row in rows if name in row]
    return statistics.median(found) if found else None


def _smoothed(course: Course) -> float | None:
    """The mean of the losses, in which each step counts for less the older it is."""
    total = weight = 0.0
    for row in course.steps[-200:]:
        if "loss" in row:
            total = SMOOTHING * total + (1 - SMOOTHING) * row["loss"]
            weight = SMOOTHING * weight + (1 - SMOOTHING)
    return total / weight if weight else None


def _time_left(
    settings: Record, recent: list[Record], step: int, steps: float | None, seconds: float | None
) -> tuple[float | None, float | None, float | None]:
    """Seconds to the end, the share that is done, and the steps in all; None for what cannot be known.

    A run with --time_budget finds its steps on the way, and a resumed one may have others than it began with.
    """
    budget = _budget(settings)
    if budget and seconds is not None:
        share = min(1.0, seconds / budget)
        return max(0.0, budget - seconds), share, round(step / share) if share else None
    if not steps or step > steps:
        return None, None, None
    timed = [row for row in recent if "seconds" in row]
    if len(timed) < 2 or timed[-1]["step"] <= timed[0]["step"]:
        return None, step / steps, steps
    pace = (timed[-1]["seconds"] - timed[0]["seconds"]) / (timed[-1]["step"] - timed[0]["step"])
    return max(0.0, pace * (steps - step)), step / steps, steps


def _budget(settings: Record) -> float:
    from nanochat.train.config import parse_duration

    try:
        return parse_duration(str(settings.get("time_budget") or ""))
    except UserError:
        return 0.0


def _price(settings: Record, ranks: int, given: float) -> tuple[float | None, bool]:
    """Dollars per hour for all cards, and whether that is only the table's."""
    told = given or number(settings.get("price_per_hour"))
    if told and told > 0:
        return told, False
    card = gpus.find(str(settings.get("machine", "")))
    return (card.price * ranks, True) if card and card.price else (None, False)


def _patience(course: Course) -> float:
    """Seconds without a row that are too long for this run."""
    if len(course.steps) < 3 or not course.gaps:
        return FIRST
    return max(LEAST, TIMES * _usual(course), min(2 * max(course.gaps), FIRST))


def _usual(course: Course) -> float:
    """Seconds between two rows."""
    return statistics.median(course.gaps[-RECENT:])


def _alerts(course: Course, at_work: bool, idle: float | None, limit: float, free: float | None) -> list[Alert]:
    found = []
    over = course.summary is not None
    if not over and idle is not None and idle > limit:
        usual = f", and usually one comes every {span(_usual(course))}" if course.gaps else ""
        what = (
            "it is at work, but hangs or waits" if at_work else "it was stopped or has died: the same command goes on"
        )
        found.append(Alert("stall", f"no row for {span(idle)}{usual}: {what}"))
    if course.lost is not None:
        found.append(Alert("loss", f"the loss was not a number at step {course.lost:,}", course.lost))
    for jump in course.level.jumps[-5:]:
        back = ", and has come down again" if jump.over else ""
        text = f"the loss jumped at step {jump.step:,} from {digits(jump.before)} to {digits(jump.after)}{back}"
        found.append(Alert("jump", text, jump.step))
    if not over and free is not None:
        saved = checkpoint_bytes(course.stage, course.tag)
        if free < max(LOW_DISK, 2 * saved):
            needs = f"; a checkpoint takes {size(saved)}" if saved else ""
            found.append(Alert("disk", f"the disk is nearly full: {size(free)} free{needs}"))
    return found


def _free() -> float | None:
    try:
        return free_bytes()
    except (OSError, UserError):
        return None
