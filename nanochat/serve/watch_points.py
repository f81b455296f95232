"""A training's curves, thinned so that a page can draw them, and only what is new since it last asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanochat.report.records import Record
from nanochat.serve.watch_course import Course

MOST = 1500  # points of a curve
# Of a thinned point the last of its steps tells these, and the mean of its steps all else.
PLACES = ("step", "tokens", "seconds")
CURVES = ("loss", "lr", "tok_per_s", "mfu", "memory", "waited", "reward", "kl", "length", "uneven", "finished")


def points(course: Course, generation: int = -1, stride: int = 0, have: int = 0) -> dict[str, Any]:
    """Columns of numbers (null where a step does not tell), a point for every `stride` steps.

    generation, stride, have: of what the page holds already, `have` points of it; it gets the points from `first` on,
    and those from there on that it holds do not count any more.
    """
    count = len(course.steps)
    width = 1
    while -(-count // width) > MOST:
        width *= 2
    known = generation == course.generation and stride == width and have > 0
    first = have - 1 if known else 0  # the last point may have got more steps
    groups = [course.steps[at : at + width] for at in range(first * width, count, width)]
    names = [name for name in CURVES if any(name in row for row in course.steps[:1] + course.steps[-1:])]
    columns = {name: [group[-1].get(name) for group in groups] for name in PLACES}
    columns |= {name: [_mean(group, name) for group in groups] for name in names}
    return {"generation": course.generation, "stride": width, "first": first, "columns": columns}


def _mean(rows: Sequence[Record], name: str) -> float | None:
    found = [row[name] for row in rows if name in row]
    return float(f"{sum(found) / len(found):.6g}") if found else None
