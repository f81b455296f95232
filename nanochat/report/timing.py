"""When each stage ran, by the times that its records were written, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nanochat.report.runs import COVERS, SHARED, TRAINING, Runs, tag_of
from nanochat.report.values import YEARS

PAUSE = 10.0  # seconds between two steps that are no training: the run was interrupted
LONGEST_CUT = 0.04  # share of the clock that a long time without any work gets


@dataclass(frozen=True)
class Stage:
    """seconds: of work, all attempts together. spans: (start, end) of each attempt by the clock; may be empty."""

    name: str
    seconds: float
    status: str
    spans: Sequence[tuple[float, float]] = ()


def stages(runs: Runs) -> list[Stage]:
    """By the pipeline's clock where it ran a stage, else by the run's own; in the order of their beginnings."""
    found: dict[str, Stage] = {}
    for r in runs.records.get("speedrun", []):
        name, seconds = str(r.get("stage", "")), float(r.get("seconds") or 0.0)
        if r["kind"] != "stage" or not (name in SHARED or tag_of(r, runs.tag) == runs.tag):
            continue
        end = r.get("time")
        spans: Sequence[tuple[float, float]] = [(max(0.0, end - seconds), end)] if end is not None else []
        before = found.get(name)
        # A record after a finished one is a new run of that stage, with other settings.
        if before and before.status != "done":
            seconds, spans = seconds + before.seconds, [*before.spans, *spans]
        found[name] = Stage(name, seconds, str(r.get("status", "")), spans)
    covered = {own for name in found for own in COVERS.get(name, (name,))}
    for run in runs.records:
        if run in TRAINING.values():
            own = _training(run, runs)
            there = found.get(run)
            if there is None:
                found[run] = own
            else:  # after a kill the pipeline saw only a part
                spans = own.spans if own.spans and runs.last(run, "settings") else there.spans
                found[run] = replace(there, seconds=max(there.seconds, own.seconds), spans=spans)
        elif run not in covered and (own_stage := _other(run, runs)):
            found[run] = own_stage
    return sorted(found.values(), key=lambda stage: min((start for start, _ in stage.spans), default=0.0))


def _training(run: str, runs: Runs) -> Stage:
    """A run that went on says so; older versions did not, and there an attempt ends where more time went by between two
    steps than the run itself counted."""
    records = [r for r in runs.records[run] if r["kind"] in ("settings", "resume", "step", "summary")]
    spans: list[tuple[float, float]] = []
    worked: float | None = None
    for r in records:
        now, own = r.get("time"), r.get("seconds")
        if now is None:
            continue
        work = own - worked if own is not None and worked is not None else 0.0
        if not spans:
            spans = [(max(0.0, now - (own or 0.0)), now)]
        elif r["kind"] == "resume":
            spans.append((now, now))
        elif worked is not None and own is not None and now - spans[-1][1] - work > PAUSE:
            spans.append((max(spans[-1][1], now - max(0.0, work)), now))
        else:
            spans[-1] = spans[-1][0], max(spans[-1][1], now)
        worked = worked if own is None else own
    ended = bool(records) and records[-1]["kind"] == "summary"
    seconds = max((r.get("seconds") or 0.0 for r in records), default=0.0)
    return Stage(run, seconds, "done" if ended else "not finished", spans)


def _other(run: str, runs: Runs) -> Stage | None:
    """An evaluation, or what needs no model."""
    kind = "eval" if runs.last(run, "eval") else "summary"
    records = [r for r in runs.records[run] if r["kind"] == kind and r.get("seconds") is not None]
    if kind == "eval" and records:
        newest = records[-1].get("checkpoint")
        records = [r for r in records if r.get("checkpoint") == newest]
    else:
        records = records[-1:]
    if not records:
        return None
    spans = [(max(0.0, r["time"] - r["seconds"]), r["time"]) for r in records if r.get("time") is not None]
    return Stage(run, sum(r["seconds"] for r in records), "done", spans)


class Clock:
    """Times to shares of a line from 0 to 1, on which long times without any work are cut short."""

    def __init__(self, spans: Iterable[tuple[float, float]]) -> None:
        self.blocks: list[tuple[float, float]] = []
        for start, end in sorted(span for span in spans if 0 <= span[0] <= span[1] < YEARS):
            if self.blocks and start <= self.blocks[-1][1]:
                self.blocks[-1] = self.blocks[-1][0], max(self.blocks[-1][1], end)
            else:
                self.blocks.append((start, end))
        work = sum(end - start for start, end in self.blocks)
        self.cuts: list[tuple[float, float]] = []  # times
        self.places: list[tuple[float, float]] = []  # (time, place) of all corners
        place, most = 0.0, max(1.0, LONGEST_CUT * work)
        for n, (start, end) in enumerate(self.blocks):
            if n:
                gap = start - self.blocks[n - 1][1]
                if gap > 4 * most:
                    self.cuts.append((self.blocks[n - 1][1], start))
                place += min(gap, most) if gap > 4 * most else gap
            self.places += [(start, place), (end, place + end - start)]
            place += end - start
        self.length = place or 1.0

    def __call__(self, when: float) -> float:
        for (t0, p0), (t1, p1) in zip(self.places, self.places[1:], strict=False):
            if t0 <= when <= t1:
                share = (when - t0) / (t1 - t0) if t1 > t0 else 0.0
                return min(1.0, (p0 + share * (p1 - p0)) / self.length)
        return 0.0 if not self.places or when < self.places[0][0] else 1.0
