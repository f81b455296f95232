"""A training in the terminal: a panel that is drawn anew on a terminal, plain lines in a pipe or a file."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nanochat.console import CONTROL, say
from nanochat.report.values import count, digits, line, score, size, span
from nanochat.serve.watch_course import Course
from nanochat.serve.watch_status import Status, status

if TYPE_CHECKING:
    from rich.console import Group

BARS = "▁▂▃▄▅▆▇█"


def figures(now: Status) -> list[tuple[str, str]]:
    """What is known, as names and short texts."""
    told: list[tuple[str, str | None]] = [
        ("step", f"{now.step:,}" + (f" of {now.steps:,}" if now.steps else "") + _part(now.share, " ({:.0%})")),
        ("loss", _text(now.smoothed, score)),
        ("reward", _text(now.reward, score)),
        *((line(name, 40), f"{score(value)} at step {now.measured_at:,}") for name, value in now.measured.items()),
        ("tokens", _text(now.tokens, count)),
        ("lr", _text(now.lr, "{:.0%} of its peak".format)),
        ("tok/s", _text(now.tok_per_s, digits)),
        ("MFU", _text(now.mfu, "{:.1%}".format)),
        ("memory", _text(now.memory, size)),
        ("time", _text(now.seconds, span)),
        ("eta", _text(now.eta if now.state != "finished" else None, span)),
        ("cost", _cost(now)),
    ]
    return [(name, text) for name, text in told if text is not None]


def _text(value: float | None, show: Callable[[float], str]) -> str | None:
    return None if value is None else show(value)


def _part(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _cost(now: Status) -> str | None:
    if now.cost is None or now.price is None:
        return None
    in_all = f" of ${now.cost_in_all:,.2f}" if now.cost_in_all is not None and now.state != "finished" else ""
    return f"{'about ' if now.about else ''}${now.cost:,.2f}{in_all} at ${now.price:,.2f} an hour"


def heading(now: Status) -> str:
    where = f" on {now.ranks} x {now.machine}" if now.ranks > 1 else f" on {now.machine}" if now.machine else ""
    return line(f"{now.name}: {now.state}{where}")


def plain_line(now: Status) -> str:
    """Everything on one line, for a log."""
    return "  ".join([f"{now.name} {now.state}", *(f"{name} {text}" for name, text in figures(now))])


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as a row of bars, at most so many; each is the mean of its share."""
    if not values or width < 1:
        return ""
    shares = min(width, len(values))
    cuts = [at * len(values) // shares for at in range(shares + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cuts)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def panel(courses: Sequence[tuple[Status, Course]], width: int) -> Group:
    """What a terminal shows: for each run its figures, the course of its loss, its alerts."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown: list[Text | Table] = []
    for now, course in courses:
        shown.append(Text(heading(now), style="bold"))
        table = Table.grid(padding=(0, 2))
        for name, text in figures(now):
            table.add_row(Text(name, style="dim"), Text(text.translate(CONTROL)))
        shown.append(table)
        curve = "reward" if now.stage == "rl" else "loss"
        values = [row[curve] for row in course.steps if curve in row]
        shown.append(Text(sparkline(values, max(10, min(80, width - 2))), style="cyan", no_wrap=True))
        shown += [Text(f"! {alert.text}".translate(CONTROL), style="bold red") for alert in now.alerts]
        if course.problem:
            shown.append(Text(f"! {course.problem}".translate(CONTROL), style="bold red"))
        shown.append(Text(""))
    return Group(*shown)


class Told:
    """Says each alert once."""

    def __init__(self) -> None:
        self._said: set[tuple[str, int | None]] = set()

    def say(self, now: Status, course: Course) -> None:
        kinds = {(alert.kind, alert.step) for alert in now.alerts}
        for alert in now.alerts:
            if (alert.kind, alert.step) not in self._said:
                say(f"{now.name} alert: {alert.text}")
        self._said = kinds
        if course.problem and ("problem", None) not in self._said:
            say(f"{now.name} alert: {course.problem}")
        if course.problem:
            self._said.add(("problem", None))


def watch_plain(courses: dict[str, Course], every: float, price: float = 0.0, once: bool = False) -> None:
    """Show these runs until all have ended; those that do not run any more are shown once. every: seconds."""
    if sys.stdout.isatty() and not once:
        _live(courses, every, price)
        return
    tellers = {name: Told() for name in courses}
    before: dict[str, tuple[str, int]] = {}
    while True:
        states = []
        for name, course in courses.items():
            course.refresh()
            now = status(name, course, price)
            states.append(now.state)
            if before.get(name) != (now.state, now.step):
                before[name] = (now.state, now.step)
                say(plain_line(now))
            tellers[name].say(now, course)
        if once or not set(states) & {"running", "waiting"}:
            return
        time.sleep(every)


def _live(courses: dict[str, Course], every: float, price: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            for course in courses.values():
                course.refresh()
            shown = [(status(name, course, price), course) for name, course in courses.items()]
            live.update(panel(shown, console.width), refresh=True)
            if not {now.state for now, _ in shown} & {"running", "waiting"}:
                return
            time.sleep(every)
