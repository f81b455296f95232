"""A plan in words and as JSON, with the memory of its step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from nanochat.console import UserError, speedrun_command
from nanochat.pipeline.estimate import Estimate
from nanochat.pipeline.layout import Layout
from nanochat.pipeline.plan.config import Goal
from nanochat.pipeline.published import FAMILIES, published
from nanochat.pipeline.recipes import RECIPES
from nanochat.train.fitting import USABLE

if TYPE_CHECKING:
    from nanochat.train.memory import Memory

VERSION = 1
WIDTH = 100
SIMILAR = 4.0  # times as many FLOPs, or as few, that a published run to compare with may have
SEEN = 0.994  # share of a card's memory that torch sees


@dataclass(frozen=True)
class Fitted:
    """rows: sequences per pass and card. card: bytes of it. checkpoints: of activations, as nothing else fits."""

    rows: int
    checkpoints: bool
    memory: Memory
    card: float
    fits: bool = True


class NoRoomError(UserError):
    """Not even one sequence in a pass fits a card."""


def fitted(layout: Layout) -> Fitted:
    """The step's memory with the rows and activation checkpoints that a training would choose.

    NoRoomError when nothing fits.
    """
    from nanochat.train.fitting import traced

    place = layout.place
    room = USABLE * SEEN * place.gpu.memory
    found = traced(
        layout.config,
        layout.batch,
        place.used,
        "float32" if place.gpu.fp32_peak else "bfloat16",
        room,
        most=layout.recipe.rows(layout.depth),
        fp8=layout.fp8,
    )
    if not found.fits:
        raise NoRoomError(
            f"depth {layout.depth} needs {_gb(found.memory.peak)} GB with a single sequence in a pass, and one "
            f"{place.gpu.name} has {_gb(room)} GB for it",
            "Give a smaller --depth, or another --gpu",
        )
    return Fitted(found.rows, found.checkpoints, found.memory, place.gpu.memory)


def command(layout: Layout, goal: Goal) -> str:
    """What does it, to be pasted on the rented machine."""
    recipe, place = layout.recipe, layout.place
    usual = RECIPES[recipe.name]
    words = [speedrun_command(), f"--recipe {recipe.name}"]
    if layout.depth != usual.depth:
        words.append(f"--depth {layout.depth}")
    if recipe.ratio != usual.ratio:
        words.append(f"--ratio {recipe.ratio:g}")
    if place.price:
        words.append(f"--price-per-hour {place.price:.12g}")
        if goal.name == "budget":
            words.append(f"--max-dollars {goal.value:.12g}")
    if goal.name == "hours":
        words.append(f"--max-hours {goal.value:.12g}")
    return " ".join(words)


def as_dict(layout: Layout, fitted: Fitted, goal: Goal) -> dict[str, Any]:
    """The plan as JSON; null for what is not known."""
    place, c = layout.place, layout.config
    price = place.price
    hours = {name: _numbers(hours) for name, hours in layout.hours.items()}
    dollars = {**_numbers(layout.all_hours.times(price)), "at_our_speed": layout.our_dollars} if price else None
    return {
        "version": VERSION,
        "goal": {"name": goal.name or "recipe", "value": goal.value or None},
        "machine": {
            "gpu": place.gpu.name,
            "num_gpus": place.count,
            "num_gpus_used": place.used,
            "price_per_hour": price or None,
            "price_from": place.price_from,
        },
        "recipe": layout.recipe.name,
        "arch": layout.recipe.arch,
        "depth": layout.depth,
        "parameters": layout.parameters,
        "scaling_parameters": c.shape.scaling_params,
        "ratio": layout.recipe.ratio,
        "dataset": layout.recipe.dataset,
        "vocab_size": c.vocab_size,
        "tokens": layout.tokens,
        "flops": layout.flops,
        "shards": layout.shards,
        "disk_bytes": {**layout.disk, "total": sum(layout.disk.values())},
        "batch_tokens": layout.batch,
        "steps": layout.steps,
        "rows": fitted.rows,
        "checkpoint_activations": fitted.checkpoints,
        "fp8": layout.fp8,
        "memory_bytes": {
            **asdict(fitted.memory),
            "peak": fitted.memory.peak,
            "card": fitted.card,
            "fits": fitted.fits,
        },
        "tokens_per_second": {**_numbers(layout.speed), "basis": layout.speed.basis},
        "hours": {**hours, "total": _numbers(layout.all_hours)},
        "hours_at_our_speed": layout.our_hours,
        "our_slowness": layout.slower,
        "dollars": dollars,
        "bpb": {**_numbers(layout.bpb), "basis": layout.bpb.basis},
        "core": {**_numbers(layout.core), "basis": layout.core.basis, "gpt2": published().gpt2},
        "rests_on": rests_on(layout),
        "command": command(layout, goal),
    }


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def rests_on(layout: Layout) -> dict[str, str]:
    """What each figure rests on, a sentence each."""
    place = layout.place
    ours = f"pretraining {layout.slower:.2f} times as long as published, as ours was measured on one H100 in bfloat16"
    if layout.fp8:
        ours += " (in float8 it was measured at d12 only, and gained nothing there)"
    found = {"speed": layout.speed.basis}
    if layout.slower != 1:
        found["ours"] = ours
    found["other stages"] = (
        "parts of the 0.8 hours that the seed's d20 took beside pretraining, scaled to this model and these cards, "
        "from half to twice that; not measured by us on a GPU"
    )
    found["CORE"] = layout.core.basis
    if layout.bpb.basis != layout.core.basis:
        found["bits per byte"] = layout.bpb.basis
    found["memory"] = "a step traced on tensors without contents; CUDA itself takes about 0.5 GB more"
    if place.price:
        found["price"] = place.price_from
    return found


def as_text(layout: Layout, fitted: Fitted, goal: Goal) -> str:
    """The plan for a person, at most WIDTH columns wide."""
    return "\n".join(_lines(layout, fitted, goal))


def _lines(layout: Layout, fitted: Fitted, goal: Goal) -> Iterator[str]:
    place, c, recipe = layout.place, layout.config, layout.recipe
    price = f" at {place.price:,.2f} dollars an hour" if place.price else ""
    asked = f", for {goal}" if goal.name else ""
    yield f"Plan for {place.count} x {place.gpu.name}{price}{asked}"
    if place.used < place.count:
        yield f"  {place.used} of the {place.count} cards train: batches are powers of two, but all are paid"
    yield ""
    yield from _entry(
        "model",
        f"depth {layout.depth} {recipe.arch}, {_count(layout.parameters)} parameters "
        f"({_count(c.shape.scaling_params)} in matrices and head), vocabulary {c.vocab_size:,}, context {c.seq_len:,}",
    )
    yield from _entry(
        "text",
        f"{_count(layout.tokens)} tokens of {recipe.dataset} ({recipe.ratio:g} per parameter), {layout.shards} shards; "
        f"{layout.flops:.3g} FLOPs",
    )
    yield from _entry(
        "batch",
        f"{layout.batch:,} tokens, {layout.steps:,} steps; {fitted.rows} x {c.seq_len:,} in a pass on each card, in "
        f"{'float8' if layout.fp8 else 'float32' if place.gpu.fp32_peak else 'bfloat16'}",
    )
    again = " with activation checkpoints, which add about a third to the work counted below"
    how = again if fitted.checkpoints else ""
    yield from _entry("memory", f"{_gb(fitted.memory.peak)} of {_gb(fitted.card)} GB of each card: fits{how}")
    disk = layout.disk
    yield from _entry(
        "disk",
        f"{_gb(sum(disk.values()))} GB: text {_gb(disk['shards'])}, checkpoints {_gb(disk['checkpoints'])}, "
        f"tokenizer and evaluations {_gb(disk['rest'])}",
    )
    yield ""
    dollars = place.price > 0
    yield f"  {'stage':<14}{'hours':>9}{'':22}{'dollars' if dollars else '':>12}".rstrip()
    stages = [(name, hours) for name, hours in layout.hours.items() if hours.value > 0]
    for name, hours in [*stages, ("all", layout.all_hours)]:
        yield _row(name, hours, place.price, name in ("base_train", "all"))
    if layout.slower != 1:
        ours = Estimate(layout.our_hours, math.nan, math.nan, "")
        row = _row("all, our speed", ours, place.price, False)
        yield f"{row}   pretraining {layout.slower:.2f} times as long (below)"
    yield ""
    yield from _entry("bits per byte", _expected(layout.bpb, 3))
    yield from _entry("CORE", f"{_expected(layout.core, 3)}; GPT-2 has {published().gpt2:.4f}")
    nearest = min(
        (run for run in published().runs if run.calibrated and run.family == FAMILIES[recipe.arch]),
        key=lambda run: abs(math.log(run.flops / layout.flops)) + (run.dataset != recipe.dataset),
    )
    quality = "".join(
        f", {name} {value:.4f}" for name, value in (("bits per byte", nearest.bpb), ("CORE", nearest.core)) if value
    )
    what = "in all" if nearest.hours_of == "all" else "of pretraining"
    if 1 / SIMILAR < nearest.flops / layout.flops < SIMILAR:
        yield from _entry("published", f"{nearest.name} on 8 x H100: {nearest.hours:.2f} hours {what}{quality}")
    yield ""
    yield "What this rests on"
    for name, words in rests_on(layout).items():
        yield from _entry(name, words)
    yield ""
    yield "The command"
    yield f"  {command(layout, goal)}"
    if goal.name in ("budget", "hours"):
        yield "  At the limit it saves and ends; the same command with a higher one goes on."


def _row(name: str, hours: Estimate, price: float, with_range: bool) -> str:
    between = f"({hours.low:,.2f} to {hours.high:,.2f})" if with_range else ""
    dollars = f"{hours.value * price:,.2f}" if price else ""
    return f"  {name:<14}{hours.value:>9,.2f}{between:>22}{dollars:>12}".rstrip()


def _entry(name: str, words: str) -> Iterator[str]:
    lines = wrap(words, WIDTH - 16, break_long_words=False, break_on_hyphens=False)
    for n, line in enumerate(lines):
        yield f"  {name if not n else '':<14}{line}"


def _expected(estimate: Estimate, digits: int) -> str:
    if not estimate.known:
        return f"not known: {estimate.basis}"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"


def _count(number: float) -> str:
    return f"{number / 1e9:.3g} B" if number >= 1e9 else f"{number / 1e6:.3g} M"


def _gb(count: float) -> str:
    return f"{count / 1e9:,.1f}" if count < 100e9 else f"{count / 1e9:,.0f}"
