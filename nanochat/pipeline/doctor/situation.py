"""The run that the machine is wanted for, and what it needs: as speedrun would run it, by arithmetic."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nanochat import gpus as table
from nanochat import scale
from nanochat.corpus.names import HUB_CORPORA, TINYWORLD
from nanochat.model.config import ModelConfig
from nanochat.pipeline.doctor.config import DoctorConfig
from nanochat.pipeline.recipes import RECIPES
from nanochat.pipeline.room import checkpoint_bytes
from nanochat.pipeline.settings import CPU_SHARDS, GPU_SHARDS, RATIO, TINY_CONTEXT, TINY_DEPTH, TINY_VOCAB, rank_count
from nanochat.train import parse_duration

CPU_DEPTH = 6  # what a CPU's time budget comes to at most, usually, with other text than the tiny world
UNKNOWN = "h100"  # what a card that the table does not have is taken for: the model is then no smaller than it will be


@dataclass(frozen=True)
class Situation:
    """gpus, gpu, capability, memory: of this process; memory is the smallest card's, in bytes. ranks: processes of the
    training. shards: of text to download."""

    depth: int = TINY_DEPTH
    vocab_size: int = TINY_VOCAB
    context: int = TINY_CONTEXT
    arch: scale.Arch = "modern"
    recipe: str = ""
    dataset: str = TINYWORLD
    shards: int = 0
    ranks: int = 1
    gpus: int = 0
    gpu: str = ""
    capability: float = 0.0
    memory: int = 0
    backup: str = ""
    push: bool = False
    tracker: str = ""
    run: str = ""
    port: int = 8000

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.from_depth(self.depth, self.vocab_size, self.context, self.arch)

    @property
    def checkpoint_bytes(self) -> float:
        return checkpoint_bytes(self.model)

    @property
    def what(self) -> str:
        return f"{self.dataset} at depth {self.depth}"


def situation(config: DoctorConfig, gpus: int, gpu: str = "", capability: float = 0.0, memory: int = 0) -> Situation:
    """UserError for NPROC_PER_NODE that is no number, for a time budget that is none, and for impossible depths."""
    ranks = rank_count(os.environ.get("NPROC_PER_NODE", ""), gpus)
    budget = parse_duration(config.time_budget) if config.time_budget else 0.0
    recipe = RECIPES.get(config.recipe) or (RECIPES["gpt2"] if gpus and not budget else None)
    own = recipe.dataset if recipe else "climbmix" if gpus else TINYWORLD
    dataset = own if config.dataset == "auto" else config.dataset
    shards = 0
    arch: scale.Arch = "modern"
    if dataset == TINYWORLD:
        depth, vocab, context, recipe = config.depth or TINY_DEPTH, TINY_VOCAB, TINY_CONTEXT, None
    elif recipe:
        wished = _affordable(budget, gpus, gpu, recipe.ratio, recipe.vocab_size) if budget else recipe.depth
        depth, vocab, arch = config.depth or wished, recipe.vocab_size, recipe.arch
        context = scale.default_seq_len(depth)
        shards = recipe.shards(depth) if not budget else GPU_SHARDS if gpus else CPU_SHARDS
    else:
        depth = config.depth or _affordable(budget, gpus, gpu, RATIO, 0)
        vocab, context = scale.default_vocab(depth), scale.default_seq_len(depth)
        shards = GPU_SHARDS if gpus else CPU_SHARDS
    shards = min(shards, HUB_CORPORA[dataset].last) if dataset in HUB_CORPORA else 0
    name = recipe.name if recipe else ""
    return Situation(
        depth, vocab, context, arch, name, dataset, shards, ranks, gpus, gpu, capability, memory,
        config.backup, config.push, config.tracker, config.run, config.port,
    )  # fmt: skip


def _affordable(budget: float, gpus: int, gpu: str, ratio: float, vocab_size: int) -> int:
    """The depth that so many seconds are enough for. A CPU is not measured for it, as speedrun does."""
    if not gpus:
        return CPU_DEPTH
    card = table.find(gpu) or table.find(UNKNOWN)
    assert card
    half = os.environ.get("NANOCHAT_DTYPE") not in (None, "", "float32")
    peak = card.peak if half else card.training_peak
    return scale.depth_for_budget(budget * scale.EFFICIENCY * peak * gpus, ratio, vocab_size)
