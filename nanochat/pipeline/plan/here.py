"""A plan for the machine at hand, which is measured first."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat import gpus, scale
from nanochat.console import UserError, duration, say, speedrun_command
from nanochat.corpus import HUB_CORPORA, TINYWORLD, find_info
from nanochat.gpus import GPU
from nanochat.pipeline import settings
from nanochat.pipeline.cards import Cards
from nanochat.pipeline.estimate import Estimate
from nanochat.pipeline.layout import Place
from nanochat.pipeline.plan.choosing import choose
from nanochat.pipeline.plan.config import Goal, PlanConfig, recipe_of
from nanochat.pipeline.plan.measuring import Measured, measure
from nanochat.pipeline.room import parameters

if TYPE_CHECKING:
    from nanochat.machine import Machine

SURE = 0.15  # relative error of a speed measured for half a minute
# Conversations of mid-training and fine-tuning together, tokens of one, and hours beside all trainings (text,
# tokenizer, grading, report): about what they were on 2 cores.
TINY = (18_000, 40, 0.05)
TEXT = (30_000, 400, 0.25)
DEEPEST = 12  # that is measured on a CPU: a step of more would take minutes
LEAST = 30.0  # seconds of pretraining


def measured(config: PlanConfig, goal: Goal, cards: Cards) -> Place:
    """This machine's GPUs, with the speed of a training for this goal that is measured on one of them."""
    from nanochat.machine import setup

    machine = setup()
    known = gpus.find(cards.name)
    price = config.price_per_hour or (known.price * cards.count if known else 0.0)
    source = "as given" if config.price_per_hour else f"{known.source}, {known.date}" if known else ""
    used = settings.rank_count(os.environ.get("NPROC_PER_NODE", ""), cards.count)
    place = Place(_card(machine, cards), cards.count, used, price, source)
    first = choose(goal, recipe_of(config), place, config.ratio)
    say(f"Measuring a training step of depth {first.depth} on one {cards.name}")
    found = measure(first.config, first.batch // used, machine, first.fp8, config.seconds)
    factor = found.tokens_per_second * used / first.speed.value
    basis = f"measured here: {found.tokens_per_second:,.0f} tokens/s on one card at d{first.depth}, {found.steps} steps"

    def speed(gpu: GPU, n: int, model: Any, fp8: bool) -> Estimate:
        there = place.speed(gpu, n, model, fp8).value * factor
        return Estimate(there, there * (1 - SURE), there * (1 + SURE), basis)

    return replace(place, speed=speed, slower=lambda depth, fp8: 1.0)


def _card(machine: Machine, cards: Cards) -> GPU:
    """As the table has it, or from what torch says and measures."""
    known = gpus.find(cards.name)
    if known:
        return replace(known, memory=cards.memory or known.memory)
    from nanochat.machine import peak_flops

    peak, h100 = peak_flops(machine), gpus.find("h100")
    assert h100
    bandwidth = peak * h100.bandwidth / h100.peak  # not known, and without effect: the speed is measured
    return GPU(cards.name, peak, 0.0, bandwidth, cards.memory, 0.0, cards.capability, "", "")


@dataclass(frozen=True)
class CPUPlan:
    """A speedrun on this machine's CPU. seconds: of pretraining; others: of everything else. price: dollars per hour, 0
    if not known."""

    machine: str
    dataset: str
    depth: int
    parameters: int
    batch_tokens: int
    tokens: int
    flops: float
    measured: Measured
    seconds: float
    others: float
    price_per_hour: float
    command: str

    @property
    def hours(self) -> float:
        return (self.seconds + self.others) / 3600

    def text(self) -> str:
        dollars = f", {self.hours * self.price_per_hour:,.2f} dollars" if self.price_per_hour else ""
        what = "the tiny world" if self.dataset == TINYWORLD else self.dataset
        return "\n".join(
            [
                f"Plan for this machine: {self.machine}",
                "",
                f"  model         depth {self.depth}, {self.parameters / 1e6:.3g} M parameters",
                f"  text          {self.tokens:,} tokens of {what}; {self.flops:.3g} FLOPs",
                f"  batch         {self.batch_tokens:,} tokens, {self.tokens // self.batch_tokens:,} steps",
                f"  speed         {self.measured.tokens_per_second:,.0f} tokens/s, measured here over "
                f"{self.measured.steps} steps",
                "",
                f"  pretraining   {duration(self.seconds)}",
                f"  the rest      about {duration(self.others)}: text, tokenizer, chat, grading (assumed)",
                f"  all           about {duration(self.hours * 3600)}{dollars}",
                "",
                "  expected      CORE and bits per byte not known: no published run is as small",
                "",
                "The command",
                f"  {self.command}",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        hours = {"base_train": self.seconds / 3600, "others": self.others / 3600, "total": self.hours}
        dollars = self.hours * self.price_per_hour if self.price_per_hour else None
        unknown = {"bpb": None, "core": None}
        return {"version": 1, **asdict(self), "hours": hours, "dollars": dollars, **unknown}


def plan_cpu(config: PlanConfig, goal: Goal) -> CPUPlan:
    """The tiny world, or one's own text, with the time that is left for pretraining. UserError for what a CPU cannot
    do, and for too little time."""
    from nanochat.machine import describe, peak_flops, setup
    from nanochat.model import ModelConfig

    dataset = TINYWORLD if config.dataset == "auto" else config.dataset
    tiny = dataset == TINYWORLD
    _require_possible(config, goal, dataset)
    limit = goal.value * 3600 if goal.name == "hours" else 0.0
    if goal.name == "budget":
        limit = goal.value / config.price_per_hour * 3600
    chats, chat_tokens, hours = TINY if tiny else TEXT
    others = 3600 * hours
    if limit:
        _require_time(goal, limit - others, others)
    machine = setup()
    if tiny:
        depth = int(goal.value) if goal.name == "depth" else settings.TINY_DEPTH
        model = ModelConfig.from_depth(depth, settings.TINY_VOCAB, settings.TINY_CONTEXT)
        batch, tokens = settings.TINY_BATCH, settings.TINY_STEPS * settings.TINY_BATCH
    else:
        flops = goal.value
        if goal.name != "flops":
            flops = (limit or settings.DEFAULT_BUDGET) * scale.EFFICIENCY * peak_flops(machine)
        choose = scale.depth_for_budget if limit or goal.name == "flops" else scale.depth_for_flops  # as speedrun does
        depth = int(goal.value) if goal.name == "depth" else choose(flops, settings.RATIO)
        model = ModelConfig.from_depth(depth, scale.default_vocab(depth), scale.default_seq_len(depth))
        tokens = scale.tokens(model.shape, settings.RATIO)
        batch = scale.batch_tokens(model.shape, tokens, settings.RATIO)
    if depth > DEEPEST:
        raise UserError(
            f"depth {depth} is too deep for a CPU", f"Give a --depth of at most {DEEPEST}, or name a --gpu to rent"
        )
    say(f"Measuring a training step of depth {depth} on {describe(machine)}")
    found = measure(model, batch, machine, seconds=config.seconds)
    speed = found.tokens_per_second
    others += chats * chat_tokens / speed
    seconds, length = tokens / speed, []
    if limit or goal.name == "flops":
        seconds = float(math.floor(limit - others if limit else goal.value / model.flops_per_token / speed))
        _require_time(goal, seconds, others)
        length = [f"--time-budget={seconds:.0f}s"]
        tokens = max(1, int(seconds * speed) // batch) * batch
    words = [] if config.dataset == "auto" else [f"--dataset={dataset}"]
    if not tiny or depth != settings.TINY_DEPTH:
        words.append(f"--depth={depth}")
    words += length
    if config.price_per_hour:
        words.append(f"--price-per-hour={config.price_per_hour:g}")
    return CPUPlan(
        describe(machine),
        dataset,
        depth,
        parameters(model),
        batch,
        tokens,
        float(tokens * model.flops_per_token),
        found,
        seconds,
        others,
        config.price_per_hour,
        f"{speedrun_command()} {shlex.join(words)}".rstrip(),
    )


def _require_possible(config: PlanConfig, goal: Goal, dataset: str) -> None:
    if goal.name == "target" or config.recipe or config.arch or config.ratio:
        raise UserError(
            "there is no GPU here, and a recipe's training would take years",
            "Name the GPUs to plan for, such as --gpu h100 --num-gpus 8",
        )
    if goal.name == "budget" and not config.price_per_hour:
        raise UserError("what this machine costs is not known", "Add --price-per-hour, or name a --gpu to rent")
    if dataset not in (TINYWORLD, *HUB_CORPORA) and not Path(dataset).exists() and not find_info(dataset):
        raise UserError(f"there is no text {dataset!r}", "Give tinyworld or a path that exists as --dataset")


def _require_time(goal: Goal, seconds: float, others: float) -> None:
    if seconds < LEAST:
        raise UserError(
            f"{goal} is too little: what comes beside pretraining takes about {duration(others)}",
            f"Give a larger --{goal.name}",
        )
