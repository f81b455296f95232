"""Sections of how it went: stages over the clock, curves over tokens, reinforcement over steps."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from nanochat.report.blocks import Block, Cell, Picture, Section, Table, Text
from nanochat.report.plot import Curve, bar, chart, tick
from nanochat.report.runs import TRAINING, Runs
from nanochat.report.source import Source
from nanochat.report.timing import Clock
from nanochat.report.values import digits, dollars, moment, number, score, size, span

PICTURE = "loss.png"
THIRD = 340, 180  # width and height of a chart when three stand side by side
TEXT_BAR = 24  # characters


def timeline(source: Source) -> list[Block]:
    """Stages as bars over the clock, with what they cost."""
    if not source.stages:
        return []
    spans = [one for stage in source.stages for one in stage.spans]
    clock = Clock(spans)
    cuts = [(clock(start), clock(end)) for start, end in clock.cuts]
    rows: list[list[str | Cell]] = []
    for stage in source.stages:
        again = len(stage.spans) - 1
        status = stage.status + (f", in {again + 1} parts" if again > 0 else "")
        bars = [
            (clock(start), clock(end), "span", f"{stage.name}, {_clock_time(start, end)}") for start, end in stage.spans
        ]
        drawn = Cell(_text_bar(bars), svg=bar(bars, cuts, f"{stage.name} over the clock")) if bars else Cell("")
        rows.append([stage.name, drawn, span(stage.seconds), dollars(stage.seconds, source.price), status or "-"])
    rows.append(["total", "", span(source.seconds), dollars(source.seconds, source.price), ""])
    table = Table(["Stage", "Clock", "Time", "Cost", "Status"], rows, words=("Clock", "Status"), strong=True)
    return [table, *([Text(_clock_words(clock), small=True)] if clock.blocks else [])]


def _clock_time(start: float, end: float) -> str:
    return f"{moment(start)} to {moment(end, '%H:%M')} UTC, {span(end - start)}"


def _clock_words(clock: Clock) -> str:
    words = f"The clock runs from {moment(clock.blocks[0][0])} to {moment(clock.blocks[-1][1])} UTC."
    if clock.cuts:
        words += (
            f" Without any work, {span(sum(end - start for start, end in clock.cuts))} of it went by (cut out here)."
        )
    return words


def _text_bar(spans: Sequence[tuple[float, float, str, str]]) -> str:
    places = {
        place for start, end, *_ in spans for place in range(int(start * TEXT_BAR), int(end * TEXT_BAR - 1e-9) + 1)
    }
    return "".join("█" if place in places else "░" for place in range(TEXT_BAR))


def losses(source: Source) -> list[Block]:
    """At most four panels: the losses, and what else says how the training went."""
    runs, found = source.runs, []
    for stage in source.trained():
        firsts = [curve for curve in _curves(runs, stage) if curve][: 2 if stage in ("base", "rl") else 1]
        found += [dataclasses.replace(curve, title=f"{stage}: {curve.title}") for curve in firsts]
    found = found[:4]
    if not found:
        return []
    across = {1: 1, 2: 2, 3: 3, 4: 2}[len(found)]
    width, height = {1: (560, 200), 2: (290, 200), 3: (250, 200), 4: (300, 150)}[len(found)]
    panels = [chart(curve, width, height) for curve in found]
    return [Picture(panels, "training loss and validation over tokens", PICTURE if source.pictured else "", across)]


def curves(source: Source) -> list[Block]:
    """Everything that changes during a training, for each one."""
    blocks: list[Block] = []
    rows = []
    for stage in source.trained():
        runs, run = source.runs, TRAINING[stage]
        found = [curve for curve in _curves(runs, stage) if curve]
        if not found:
            continue
        panels = [chart(curve, *THIRD) for curve in found]
        over = "steps" if stage == "rl" else "tokens"
        alt = f"{', '.join(curve.title for curve in found)} of {stage} over {over}"
        blocks.append(Section(stage, [Picture(panels, alt, across=3)], 3))
        losses = [y for _, y in runs.series(run, "step", "loss", "step")]
        speeds, shares, memory = ([y for _, y in _every(runs, run, name)] for name in ("tok_per_s", "mfu", "memory"))
        rows.append(
            [
                stage,
                f"{len(losses):,}",
                f"{losses[0]:.3f}" if losses else "-",
                f"{statistics.fmean(losses[-max(1, len(losses) // 50) :]):.3f}" if losses else "-",
                f"{statistics.median(speeds):,.0f}" if speeds else "-",
                f"{statistics.median(shares):.1%}" if shares else "-",
                size(max(memory)) if memory else "-",
            ]
        )
    head = ["Stage", "Steps", "First loss", "Last loss", "Tokens/s (median)", "MFU (median)", "Memory (most)"]
    return [Table(head, rows), *blocks] if rows else []


def _every(runs: Runs, run: str, name: str, over: str = "step") -> list[tuple[float, float]]:
    """A value of every step; MFU is proportional to the speed, if an older version has only the run's."""
    found = runs.series(run, "step", name, over)
    if found or name != "mfu":
        return found
    summary = runs.last(run, "summary") or {}
    share, speed = number(summary.get("mfu")), number(summary.get("tok_per_s"))
    return [(x, y * share / speed) for x, y in runs.series(run, "step", "tok_per_s", over)] if share and speed else []


def _curves(runs: Runs, stage: str) -> list[Curve]:
    run, over = TRAINING[stage], "step" if stage == "rl" else "tokens"

    def every(title: str, name: str, show: Callable[[float], str] = tick, from_zero: bool = True) -> Curve:
        return Curve(title, _every(runs, run, name, over), (), show, from_zero)

    common = [
        every("learning rate (share of the peak)", "lr"),
        every("tokens per second", "tok_per_s"),
        every("MFU", "mfu", lambda value: f"{100 * value:.3g}%"),
        every("memory", "memory", lambda value: size(value).replace(".0 ", " ") if value else "0"),
    ]
    if stage != "rl":
        bpb = Curve("validation bits per byte", (), runs.series(run, "eval", "val_bpb"))
        checks = runs.series(run, "eval", "val_loss")
        loss = Curve("loss", runs.series(run, "step", "loss"), checks, beside="validation" if checks else "")
        return [loss, bpb, *common]
    passed = Curve("right answers (held-out)", (), runs.series(run, "eval", "pass@1", over), from_zero=True)
    rewards = [every("reward", "reward"), every("KL (nats per token)", "kl"), every("tokens per answer", "length")]
    return [passed, *rewards, every("loss", "loss", from_zero=False), *common]


def reinforcement(source: Source) -> list[Block]:
    """Scores on held-out questions during reinforcement, and the mean of the steps since the previous row."""
    records = source.runs.records.get("chat_rl", [])
    measured = {r["step"]: r for r in records if r["kind"] == "eval" and "step" in r}
    steps = {r["step"]: r for r in records if r["kind"] == "step" and "step" in r}
    if not measured:
        return []
    rates = [name for name in measured[max(measured)] if name.startswith("pass@")]
    rows, before = [], 0.0
    for step in sorted(measured):
        passed = [r for at, r in steps.items() if before < at <= step]
        means = []
        for name in ("reward", "kl", "length"):
            known = [r[name] for r in passed if name in r]
            means.append(digits(statistics.fmean(known)) if known else "-")
        rows.append([f"{step:,.0f}", *(score(measured[step].get(name)) for name in rates), *means])
        before = step
    return [Table(["Step", *rates, "training reward", "KL (nats per token)", "tokens per answer"], rows)]
