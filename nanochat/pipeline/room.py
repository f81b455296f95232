"""Whether a training fits a card at all, asked before anything begins: text and tokenizer take an hour."""

from __future__ import annotations

import functools
from collections.abc import Callable

from nanochat.console import UserError, warn
from nanochat.model import ModelConfig
from nanochat.train.fitting import USABLE

BFLOAT16 = 8.0  # compute capability from which a card has it


def require_room(
    shaped: Callable[[int], ModelConfig], depth: int, ranks: int, memory: float, capability: float, fp8: bool
) -> None:
    """UserError, with the largest depth that fits, when one sequence in a pass, with activation checkpoints, needs more
    than a card has.

    shaped: the model of a depth. memory: bytes of one card; 0 if not known.
    """

    usable = USABLE * memory

    @functools.cache
    def peak(depth: int) -> float:
        """Bytes at the peak of a step, or a bound that says enough."""
        least, most = held(shaped(depth), ranks), surely(shaped(depth), ranks)
        return least if least > usable else most if most < usable else needed(shaped(depth), ranks, capability, fp8)

    if not memory or peak(depth) < usable:
        return
    # A guess first: each step that is traced takes seconds.
    over = max(1.1, peak(depth) / held(shaped(depth), ranks))
    smaller = range(1, depth)
    largest = max((d for d in smaller if over * held(shaped(d), ranks) < usable), default=0)
    while largest and peak(largest) >= usable:
        largest -= 1
    while largest + 1 in smaller and peak(largest + 1) < usable:
        largest += 1
    with_more = f", with {ranks} of them" if ranks > 1 else ""
    raise UserError(
        f"depth {depth} does not fit a GPU of {memory / 1e9:.0f} GB{with_more}, with one sequence in a pass",
        f"Give --depth {largest}, the largest that fits" if largest else "Use a larger GPU",
        "Use larger GPUs, or more of them, which share the optimiser's state" if largest else "",
    )


def parameters(c: ModelConfig) -> int:
    """All of a model, but for some thousand gates and scalars."""
    tables = sum(c.has_value_embedding(i) for i in range(c.depth)) * c.vocab_size * c.kv_heads * c.head_dim
    return c.shape.scaling_params + c.vocab_size * c.width + tables + c.bigram * c.width


def _moments(config: ModelConfig) -> float:
    """Bytes: one moment of each matrix, two of the others."""
    matrices = config.shape.matrix_params
    return 4.0 * matrices + 8.0 * (parameters(config) - matrices)


def checkpoint_bytes(config: ModelConfig) -> float:
    return 4.0 * parameters(config) + _moments(config)


def held(config: ModelConfig, ranks: int) -> float:
    """Bytes that a card holds all the time, at least: weights and gradients in float32, its part of the moments."""
    return 8.0 * parameters(config) + _moments(config) / ranks


def surely(config: ModelConfig, ranks: int) -> float:
    """Bytes with which it certainly fits: tracing the step takes seconds, and is only needed in between."""
    kept = (4.0 * config.depth + 150.0) * config.width * config.seq_len
    return 1.5 * held(config, ranks) + kept + 24.0 * config.vocab_size * config.width + 4e9


def needed(config: ModelConfig, ranks: int, capability: float, fp8: bool) -> float:
    """Bytes at the peak of a step, by taking it on tensors without contents."""
    from nanochat.train.memory import predict

    dtype = "float32" if 0 < capability < BFLOAT16 else "bfloat16"
    try:
        return predict(config, 1, ranks, dtype, fp8=fp8, checkpoint_activations=True).peak
    except Exception as error:  # another torch, perhaps: no reason to refuse a training
        warn(f"warning: the memory of a step could not be predicted ({error!r:.200}); only what it holds is counted")
        return held(config, ranks)
