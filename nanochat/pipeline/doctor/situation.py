"""The run that the machine is wanted for, and what it needs: as speedrun would run it, by arithmetic."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nanochat import scale
from nanochat.corpus.names import HUB_CORPORA, TINYWORLD
from nanochat.model.config import ModelConfig
from nanochat.pipeline.doctor.config import DoctorConfig
from nanochat.pipeline.recipes import RECIPES
from nanochat.pipeline.room import checkpoint_bytes
from nanochat.pipeline.settings import CPU_SHARDS, TINY_CONTEXT, TINY_DEPTH, TINY_VOCAB, rank_count

CPU_DEPTH = 6  # what a CPU's time budget usually comes to, with other text than the tiny world


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
    """UserError for NPROC_PER_NODE that is no number, and for impossible depths."""
    ranks = rank_count(os.environ.get("NPROC_PER_NODE", ""), gpus)
    recipe = RECIPES.get(config.recipe) or (RECIPES["gpt2"] if gpus else None)
    dataset = config.dataset if config.dataset != "auto" else recipe.dataset if recipe else TINYWORLD
    shards = 0
    arch: scale.Arch = "modern"
    if dataset == TINYWORLD:
        depth, vocab, context, recipe = config.depth or TINY_DEPTH, TINY_VOCAB, TINY_CONTEXT, None
    elif recipe:
        depth, vocab = config.depth or recipe.depth, recipe.vocab_size
        context, arch, shards = scale.default_seq_len(depth), recipe.arch, recipe.shards(depth)
    else:
        depth = config.depth or CPU_DEPTH
        vocab, context, shards = scale.default_vocab(depth), scale.default_seq_len(depth), CPU_SHARDS
    shards = min(shards, HUB_CORPORA[dataset].last) if dataset in HUB_CORPORA else 0
    name = recipe.name if recipe else ""
    return Situation(
        depth, vocab, context, arch, name, dataset, shards, ranks, gpus, gpu, capability, memory,
        config.backup, config.push, config.tracker, config.run, config.port,
    )  # fmt: skip
