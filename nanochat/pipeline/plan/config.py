"""What a plan is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanochat.console import UserError
from nanochat.pipeline.recipes import RECIPES, Recipe
from nanochat.pipeline.settings import LEAST_RATIO, MOST_RATIO

GOALS = ("budget", "hours", "depth", "flops", "target")
MOST, MOST_FLOPS, MOST_DEPTH = 1e9, 1e30, 1024  # hours or dollars, FLOPs, layers that may be meant


@dataclass
class PlanConfig:
    """Plan a run before it is paid for: what --budget, --hours, --depth, --flops or --target takes on some GPUs.

    Without --gpu, this machine is planned for, and measured for half a minute.
    """

    budget: float | None = None
    """dollars that all stages together may cost"""
    hours: float | None = None
    """hours that all stages together may take"""
    depth: int | None = None
    """layers"""
    flops: float | None = None
    """training FLOPs of pretraining, such as 4e19"""
    target: Literal["", "gpt2"] = ""
    """gpt2: the cheapest setting expected to reach GPT-2's CORE"""
    gpu: str = ""
    """the GPU to rent, as in h100 or "rtx 4090"; empty: this machine"""
    num_gpus: int = 1
    """how many of --gpu"""
    price_per_hour: float = 0.0
    """what the whole machine costs, in dollars per hour; 0: the table's price of --gpu times their number"""
    recipe: Literal["", "gpt2", "seed"] = ""
    """gpt2: the modern model of 2026 (default); seed: the classic one of 2025"""
    arch: Literal["", "modern", "classic"] = ""
    """the recipe by its architecture: modern is gpt2, classic is seed"""
    ratio: float = 0.0
    """tokens of pretraining per parameter, as the recipe counts them; 0: as published"""
    dataset: str = "auto"
    """text to train on this machine: tinyworld, or a path to your own; auto: tinyworld without GPUs"""
    seconds: float = 30.0
    """how long to measure this machine when there is no --gpu"""
    calibration: bool = False
    """print how well the estimates predict the published runs, and stop"""
    json: Path | None = None
    """file for the plan"""


@dataclass(frozen=True)
class Goal:
    """What is asked for, and in the words of the command line. name: one of GOALS, or "" for the recipe's own size."""

    name: str
    value: float

    def __str__(self) -> str:
        return "--target gpt2" if self.name == "target" else f"--{self.name} {self.value:g}" if self.name else ""


def check(config: PlanConfig) -> Goal:
    """The goal. UserError for flags that contradict each other or make no sense."""
    given = [name for name in GOALS if getattr(config, name) not in (None, "")]
    if len(given) > 1:
        named = " and ".join(f"--{name}" for name in given)
        raise UserError(f"{named} are each a goal of their own", "Give one of them")
    for name in ("budget", "hours", "flops"):
        value = getattr(config, name)
        most = MOST_FLOPS if name == "flops" else MOST
        if value is not None and not 0 < value <= most:
            raise UserError(f"--{name} is {value:g}", f"Give a number above 0 and up to {most:g}")
    if not 0 <= config.price_per_hour <= MOST:
        raise UserError(f"--price-per-hour is {config.price_per_hour:g}", f"Give dollars above 0 and up to {MOST:g}")
    if config.ratio and not LEAST_RATIO <= config.ratio <= MOST_RATIO:
        raise UserError(f"--ratio is {config.ratio:g}", f"Give {LEAST_RATIO} to {MOST_RATIO} tokens, such as 8")
    if config.depth is not None and not 1 <= config.depth <= MOST_DEPTH:
        raise UserError(f"--depth is {config.depth}", f"Give a number of layers from 1 to {MOST_DEPTH}")
    if not 0 < config.seconds <= 3600:
        raise UserError(f"--seconds is {config.seconds:g}", "Give a number above 0 and up to 3600, such as 30")
    if config.recipe and config.arch and RECIPES[config.recipe].arch != config.arch:
        raise UserError(f"the recipe {config.recipe} is not {config.arch}", "Give --recipe or --arch, not both")
    if not config.gpu and config.num_gpus != 1:
        raise UserError("--num-gpus says how many, and not which", "Add --gpu, such as --gpu h100")
    if config.gpu and config.dataset != "auto":
        raise UserError("a plan for rented GPUs is for the recipe's text", "Leave --dataset out")
    if config.target and config.ratio:
        raise UserError("--target chooses how many tokens to train on", "Leave --ratio out")
    if not given:
        return Goal("", 0.0)
    return Goal(given[0], 0.0 if given[0] == "target" else float(getattr(config, given[0])))


def recipe_of(config: PlanConfig) -> Recipe:
    if config.recipe:
        return RECIPES[config.recipe]
    return next(recipe for recipe in RECIPES.values() if recipe.arch == (config.arch or "modern"))
