"""What money or hours buy: a run laid out before it is paid for, with the command that does it."""

from __future__ import annotations

from typing import Any

from nanochat.console import say
from nanochat.paths import write_json
from nanochat.pipeline.calibration import calibration_dict, calibration_table
from nanochat.pipeline.cards import present
from nanochat.pipeline.layout import Layout, Place
from nanochat.pipeline.plan.choosing import DEPTHS, choose, rented
from nanochat.pipeline.plan.config import Goal, PlanConfig, check, recipe_of
from nanochat.pipeline.plan.here import measured, plan_cpu
from nanochat.pipeline.plan.text import Fitted, NoRoomError, as_dict, as_text, fitted


def run_plan(config: PlanConfig) -> None:
    """Print a plan, and write it to --json; see PlanConfig."""
    text, facts = _plan(config)
    say(text)
    if config.json:
        write_json(config.json, facts)


def _plan(config: PlanConfig) -> tuple[str, dict[str, Any]]:
    """In words, and as JSON."""
    goal = check(config)
    if config.calibration:
        return calibration_table(), calibration_dict()
    if config.gpu:
        place = rented(config.gpu, config.num_gpus, config.price_per_hour)
    elif (cards := present()).count:
        place = measured(config, goal, cards)
    else:
        plan = plan_cpu(config, goal)
        return plan.text(), plan.to_dict()
    layout, memory = laid_out(config, goal, place)
    return as_text(layout, memory, goal), as_dict(layout, memory, goal)


def laid_out(config: PlanConfig, goal: Goal, place: Place) -> tuple[Layout, Fitted]:
    """What meets the goal there and fits, and its memory: arithmetic chooses, the trace of a step has the last word."""
    deepest = DEPTHS[-1]
    while True:
        layout = choose(goal, recipe_of(config), place, config.ratio, deepest)
        try:
            return layout, fitted(layout)
        except NoRoomError:
            if goal.name in ("", "depth"):
                raise
            deepest = layout.depth - 1
