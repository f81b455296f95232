"""Depth and tokens per parameter that meet a goal on some GPUs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from nanochat import gpus
from nanochat.console import UserError
from nanochat.pipeline.cards import pretended
from nanochat.pipeline.layout import Layout, Place
from nanochat.pipeline.plan.config import Goal
from nanochat.pipeline.published import published
from nanochat.pipeline.recipes import Recipe
from nanochat.pipeline.room import held
from nanochat.pipeline.settings import rank_count
from nanochat.train.fitting import USABLE

LENGTHS = {"gpt2": (8.0, 12.0), "seed": (20.0, 20.0)}  # tokens per parameter, as published runs had them
NEAR = 1.25  # about half a step of depth in FLOPs
DEPTHS = range(4, 66, 2)  # heads come out evenly at even depths
TARGET_DEPTHS = {
    "gpt2": range(24, 28, 2),
    "seed": range(20, 34, 2),
}  # upstream's d22, trained longer, did worse than d24


def rented(name: str, count: int, price: float) -> Place:
    """So many GPUs of this name. price: dollars per hour of all; 0: the table's. UserError for unknown ones."""
    cards = pretended(name, count)
    gpu = gpus.find(name)
    assert gpu
    source = "as given" if price else f"{gpu.source}, {gpu.date}"
    price = price or gpu.price * cards.count
    return Place(gpu, cards.count, rank_count("", cards.count), price, source)


def choose(goal: Goal, recipe: Recipe, place: Place, ratio: float = 0.0, deepest: int = DEPTHS[-1]) -> Layout:
    """Depth and tokens per parameter for the goal. ratio: the person's; 0: as published. deepest: for goals that leave
    the depth open.

    A budget and hours are kept at our own measured speed, which is slower than the published one. UserError for a goal
    that nothing meets.
    """
    if goal.name == "target":
        return _cheapest(recipe, place, deepest)
    if goal.name in ("", "depth"):
        depth = int(goal.value) or recipe.depth
        layout = Layout(place, replace(recipe, ratio=round(ratio, 2) or recipe.ratio), depth)
        if not holds(layout):
            raise UserError(
                f"depth {depth} does not fit the {place.gpu.memory / 1e9:.0f} GB of one {place.gpu.name}",
                f"Give a --depth of at most {_deepest(layout)}, or another --gpu",
            )
        if layout.steps < 1:
            raise UserError(f"{place.used:,} GPUs are too many for depth {depth}", "Give a smaller --num-gpus")
        return layout
    if goal.name == "budget" and not place.price:
        raise UserError("what this machine costs is not known", "Add --price-per-hour")
    low, high = (ratio, ratio) if ratio else LENGTHS[recipe.name]
    return _fill(goal, recipe, place, low, high, deepest)


def holds(layout: Layout) -> bool:
    """Whether a step with one sequence surely does not run out of memory, as far as arithmetic can tell."""
    c = layout.config
    one = (2.0 * c.depth + 40.0) * c.width * c.seq_len + 8.0 * c.vocab_size * c.width  # with activation checkpoints
    return held(c, layout.place.used) + one < USABLE * layout.place.gpu.memory


def _deepest(layout: Layout) -> int:
    return max((d for d in range(1, layout.depth) if holds(replace(layout, depth=d))), default=1)


# Unit, what a layout takes of it, and what else to do where the goal is too little.
_USES: dict[str, tuple[str, Callable[[Layout], float], str]] = {
    "budget": ("dollars", lambda layout: layout.our_dollars, ", or fewer or cheaper GPUs"),
    "hours": ("hours", lambda layout: layout.our_hours, ", or more or faster GPUs"),
    "flops": ("FLOPs", lambda layout: layout.flops, ""),
}


def _fill(goal: Goal, recipe: Recipe, place: Place, low: float, high: float, deepest: int) -> Layout:
    """Of the depths that can be trained on `low` to `high` tokens per parameter, the one that makes most FLOPs of the
    goal, so that more money or time never buys less; for a goal of FLOPs the deepest."""
    unit, uses, else_ = _USES[goal.name]
    # A count of FLOPs is not a limit: where only the depth can be chosen, the nearest may take a little more.
    most_used = goal.value * (NEAR if goal.name == "flops" and low == high else 1.0)

    def at(depth: int, cents: int) -> Layout:
        return Layout(place, replace(recipe, ratio=cents / 100), depth)

    least, most = round(low * 100), round(high * 100)
    depths = [d for d in DEPTHS if d <= deepest and holds(at(d, least))]
    if not depths:
        raise UserError(f"no model fits the memory of one {place.gpu.name}", "Choose another --gpu")
    fit = [d for d in depths if uses(at(d, least)) <= most_used]
    where = f"{place.count} x {place.gpu.name}" if place.count > 1 else f"one {place.gpu.name}"
    if not fit:
        needs = uses(at(depths[0], least))
        raise UserError(
            f"{goal} is too little on {where}: the smallest model, depth {depths[0]}, takes about {_up(needs)} {unit}",
            f"Give --{goal.name} {_up(needs)} or more{else_}",
        )
    depth = fit[-1]
    if depth == depths[-1] and (could := uses(at(depth, most))) * NEAR < goal.value:
        why = "is planned" if depth == DEPTHS[-1] else "fits its memory"
        raise UserError(
            f"{goal} is more than can be used on {where}: depth {depth}, the largest that {why}, takes about "
            f"{_up(could)} {unit}",
            f"Give --{goal.name} {_down(could)} or less, or larger GPUs",
        )

    def longest(depth: int) -> Layout:
        """With the most tokens that fit."""
        few, many = least, most
        while few < many:
            middle = (few + many + 1) // 2
            few, many = (middle, many) if uses(at(depth, middle)) <= most_used else (few, middle - 1)
        return at(depth, few)

    best = longest(depth)
    for shallower in reversed(fit[:-1]):
        if goal.name == "flops" or uses(at(shallower + 2, most)) <= most_used:
            break  # it would leave a part unused
        best = max(best, longest(shallower), key=lambda layout: layout.flops)
    return best


def _up(value: float) -> str:
    """A little more, with two digits that matter."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / step) * step:.6g}"


def _down(value: float) -> str:
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.floor(value / step) * step:.6g}"


def _cheapest(recipe: Recipe, place: Place, deepest: int) -> Layout:
    """The quickest at the published depths whose expected CORE, the middle of its interval, is GPT-2's or more."""
    least, most = (round(10 * ratio) for ratio in LENGTHS[recipe.name])
    layouts = (
        Layout(place, replace(recipe, ratio=tenths / 10), depth)
        for depth in TARGET_DEPTHS[recipe.name]
        if depth <= deepest
        for tenths in range(least, most + 1)
    )
    enough = [layout for layout in layouts if holds(layout) and layout.core.value >= published().gpt2]
    if not enough:
        raise UserError(
            f"no model that reaches GPT-2 fits the {place.gpu.memory / 1e9:.0f} GB of one {place.gpu.name}",
            "Choose a --gpu with more memory",
        )
    return min(enough, key=lambda layout: layout.our_hours)
