"""A recipe at a depth on some cards: its length, its hours, its dollars. Pure arithmetic, as `speedrun` would do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from nanochat import scale
from nanochat.corpus import HUB_CORPORA
from nanochat.gpus import GPU
from nanochat.model import ModelConfig
from nanochat.pipeline import estimate
from nanochat.pipeline.estimate import SHARD_BYTES, Estimate
from nanochat.pipeline.recipes import FLOAT8, Recipe
from nanochat.pipeline.room import checkpoint_bytes, parameters

FEWEST_STEPS = 20  # as in train/base.py
OTHERS = (0.5, 2.0)  # what the hours of the stages beside pretraining may be off by
LEFT = 5  # checkpoints that base (the one before the warm-down among them) and mid-training leave
# Bytes a weight that must be free when the last stage begins, to keep two checkpoints and write one; with 5% to spare.
ASKED = 1.05 * 3 * 12
REST_BYTES = 2e9  # tokenizer, evaluation bundle, conversations: assumed


Speed = Callable[[GPU, int, ModelConfig, bool], Estimate]


def disk_of(config: ModelConfig, shards: int) -> dict[str, float]:
    """Bytes that must be free before a run begins: for the text with its validation shard, for checkpoints as the
    trainings ask for them, and for the rest."""
    checkpoints = LEFT * checkpoint_bytes(config) + ASKED * parameters(config)
    return {"shards": (shards + 1) * SHARD_BYTES, "checkpoints": checkpoints, "rest": REST_BYTES}


@dataclass(frozen=True)
class Place:
    """Where to train. count: cards that are paid; used: cards that train. price: dollars per hour for all of them, 0 if
    not known. speed: tokens/s of pretraining. slower: how many times longer ours takes than that, by (depth, fp8)."""

    gpu: GPU
    count: int
    used: int
    price: float
    price_from: str
    speed: Speed = estimate.tokens_per_second
    slower: Callable[[int, bool], float] = estimate.slower


@dataclass(frozen=True)
class Layout:
    """A recipe (its ratio is the one to use) at a depth in a place."""

    place: Place
    recipe: Recipe
    depth: int

    @cached_property
    def config(self) -> ModelConfig:
        s = self.recipe.shape(self.depth)
        return ModelConfig.of(s, self.recipe.arch)

    @cached_property
    def batch(self) -> int:
        """Tokens per step: equally many sequences on every card."""
        whole = self.place.used * self.config.seq_len
        return max(1, round(self.recipe.batch_tokens(self.depth) / whole)) * whole

    @cached_property
    def steps(self) -> int:
        if self.recipe.count_all:
            return self.recipe.tokens(self.depth) // self.batch
        return max(FEWEST_STEPS, scale.tokens(self.config.shape, self.recipe.ratio) // self.batch)

    @property
    def tokens(self) -> int:
        return self.steps * self.batch

    @property
    def flops(self) -> float:
        return self.tokens * self.config.flops_per_token

    @property
    def fp8(self) -> bool:
        return self.recipe.fp8 and self.place.gpu.capability >= FLOAT8

    @cached_property
    def parameters(self) -> int:
        return parameters(self.config)

    @property
    def shards(self) -> int:
        corpus = HUB_CORPORA.get(self.recipe.dataset)
        shards = self.recipe.shards(self.depth)
        return min(shards, corpus.last) if corpus else shards

    @property
    def disk(self) -> dict[str, float]:
        return disk_of(self.config, self.shards)

    @cached_property
    def speed(self) -> Estimate:
        return self.place.speed(self.place.gpu, self.place.used, self.config, self.fp8)

    @cached_property
    def slower(self) -> float:
        return self.place.slower(self.depth, self.fp8)

    @cached_property
    def hours(self) -> dict[str, Estimate]:
        """Of every stage, in order, at the speed of published runs."""
        found = {}
        for name, hours in estimate.beside(self.config, self.place.gpu, self.place.used, self.shards).items():
            found[name] = Estimate(hours, hours * OTHERS[0], hours * OTHERS[1], "")
            if name == "tok_eval":
                took = [self.tokens / speed / 3600 for speed in (self.speed.value, self.speed.high, self.speed.low)]
                found["base_train"] = Estimate(took[0], took[1], took[2], self.speed.basis)
        return found

    @cached_property
    def all_hours(self) -> Estimate:
        parts = list(self.hours.values())
        return Estimate(sum(p.value for p in parts), sum(p.low for p in parts), sum(p.high for p in parts), "")

    @property
    def our_hours(self) -> float:
        """All hours if pretraining is as much slower as ours was measured to be."""
        return self.all_hours.value + (self.slower - 1) * self.hours["base_train"].value

    @property
    def our_dollars(self) -> float:
        return self.our_hours * self.place.price

    @property
    def core(self) -> Estimate:
        return estimate.core(self.recipe.arch, self.recipe.dataset, self.flops, self.recipe.ratio)

    @property
    def bpb(self) -> Estimate:
        return estimate.bpb(self.recipe.arch, self.recipe.dataset, self.flops, self.recipe.ratio)
