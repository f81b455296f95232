"""The run that the machine is wanted for, and what it needs: as speedrun would run it, by arithmetic."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nanochat import scale
from nanochat.corpus.names import HUB_CORPORA, TINYWORLD
from nanochat.model.config import ModelConfig
from nanochat.pipeline.doctor.config import DoctorConfig
from nanochat.pipeline.recipes import RECIPES, SHARD_CHARS, shards_needed
from nanochat.pipeline.settings import CPU_SHARDS, TINY_CONTEXT, TINY_DEPTH, TINY_VOCAB, rank_count

SHARD_BYTES = 0.4 * SHARD_CHARS  # on disk, packed
TINY_BYTES = 30e6  # of the tiny world's text
BUNDLE_BYTES = 0.7e9  # of CORE's data, packed and unpacked
BYTES_PER_WEIGHT = 12  # of a checkpoint: float32, with two moments
KEPT = 10  # checkpoints of three stages: base keeps four while it writes, the others three
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
        """Of one checkpoint: weights and moments."""
        return BYTES_PER_WEIGHT * parameters(self.model)

    @property
    def text_bytes(self) -> float:
        if self.dataset == TINYWORLD:
            return TINY_BYTES
        return self.shards * SHARD_BYTES

    @property
    def disk_bytes(self) -> float:
        """What the whole run leaves on disk, and needs meanwhile."""
        bundle = BUNDLE_BYTES if self.dataset in HUB_CORPORA else 0.0
        return self.text_bytes + KEPT * self.checkpoint_bytes + bundle

    @property
    def what(self) -> str:
        return f"{self.dataset} at depth {self.depth}"


def parameters(c: ModelConfig) -> int:
    """All weights of a model. Exact but for a few hundred scalars."""
    kv_width = c.kv_heads * c.head_dim
    values = sum(c.has_value_embedding(layer) for layer in range(c.depth))
    matrices = c.depth * (2 * c.width**2 + 2 * c.width * kv_width + 8 * c.width**2)
    return matrices + 2 * c.vocab_size * c.width + values * c.vocab_size * kv_width + c.bigram * c.width


def situation(config: DoctorConfig, gpus: int, gpu: str = "", capability: float = 0.0, memory: int = 0) -> Situation:
    """UserError for NPROC_PER_NODE that is no number, and for impossible depths."""
    ranks = rank_count(os.environ.get("NPROC_PER_NODE", ""), gpus)
    own = config.dataset if config.dataset != "auto" else ""
    if config.recipe or gpus or config.dataset in HUB_CORPORA:
        recipe = RECIPES[config.recipe or "gpt2"]
        small = not (config.recipe or gpus)
        depth = config.depth or (CPU_DEPTH if small else recipe.depth)
        vocab = scale.default_vocab(depth) if small else recipe.vocab_size
        dataset = own or recipe.dataset
        shards = CPU_SHARDS if small else shards_needed(recipe.tokens(depth, vocab), vocab)
        context, arch, name = scale.default_seq_len(depth), recipe.arch, recipe.name
    elif own in ("", TINYWORLD):
        depth, vocab, context = config.depth or TINY_DEPTH, TINY_VOCAB, TINY_CONTEXT
        dataset, shards, arch, name = TINYWORLD, 0, "modern", ""
    else:
        depth = config.depth or CPU_DEPTH
        vocab, context = scale.default_vocab(depth), scale.default_seq_len(depth)
        dataset, shards, arch, name = own, 0, "modern", ""
    if dataset not in HUB_CORPORA:
        shards = 0
    return Situation(
        depth, vocab, context, arch, name, dataset, shards, ranks, gpus, gpu, capability, memory,
        config.backup, config.push, config.tracker, config.run, config.port,
    )  # fmt: skip
