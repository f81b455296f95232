"""What money or hours buy: a run laid out before it is paid for, with the command that does it."""

from __future__ import annotations

from typing import Any

from nanochat.console import say
from nanochat.paths import write_json
from nanochat.pipeline.calibration import calibration_dict, calibration_table
from nanochat.pipeline.cards import present
from nanochat.pipeline.choosing import choose, rented
from nanochat.pipeline.plan_config import PlanConfig, check, recipe_of
from nanochat.pipeline.plan_here import plan_cpu, plan_gpus
from nanochat.pipeline.plan_text import as_dict, as_text, fitted


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
        layout = choose(goal, recipe_of(config), place, config.ratio)
    elif (cards := present()).count:
        layout = plan_gpus(config, goal, cards)
    else:
        plan = plan_cpu(config, goal)
        return plan.text(), plan.to_dict()
    memory = fitted(layout)
    return as_text(layout, memory, goal), as_dict(layout, memory, goal)
