"""The one dial: depth decides width, heads, batch, tokens and learning rates. Pure arithmetic.

Figures are upstream nanochat's (tuned there at depth 12 with batches of 2^19 tokens) unless noted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Arch = Literal["modern", "classic"]
ASPECT = 64  # width per layer
REFERENCE_DEPTH, REFERENCE_VOCAB, REFERENCE_BATCH = 12, 32768, 2**19
BATCH_EXPONENT = 0.383  # best batch ~ tokens^0.383 (https://arxiv.org/abs/2505.13738)
EFFICIENCY = 0.5  # share of the matmul peak that training reaches, for plans made before it is measured
SHORTEST = 64  # tokens of a sequence in the first half of a run
PAIR_WEIGHTS = 40 * 2**20  # the most of the table of token pairs, 168 MB, unless 5 rows a token are more
SMALL_DEPTH = 10  # below it, models have a table of token pairs, narrow heads and a short context
MIN_STEPS, MIN_BATCH = 2500, 4096  # a short run gets a smaller batch before it gets fewer updates
# A d34 learnt 4 to 6 times less from a token in batches of 2^21 (upstream's runs). With 8 tokens per parameter a d18
# takes 2,475 steps of 2^20.
MAX_BATCH, MIN_STEPS_AT_MOST = 2**20, 2400
SMALL_BATCH = 2**14  # runs of minutes; see `rates`


@dataclass(frozen=True)
class Shape:
    """A transformer's sizes."""

    depth: int
    width: int
    heads: int
    vocab_size: int
    seq_len: int

    @property
    def matrix_params(self) -> int:
        """Weights of attention (4 width^2) and MLP (8 width^2)."""
        return 12 * self.depth * self.width**2

    @property
    def scaling_params(self) -> int:
        """Matrices and head: the count that gives the cleanest scaling laws."""
        return self.matrix_params + self.vocab_size * self.width

    @property
    def windows(self) -> str:
        """Short windows where the context is long enough that cheaper attention pays."""
        return "SSSL" if self.seq_len >= 1024 else "L"

    @property
    def bigram(self) -> int:
        """Rows of the hashed table of token pairs, which cost memory but no FLOPs. At depth 4, 1.2 M tokens of English,
        5 rows a token of the vocabulary: 1.859 bits per byte instead of 1.895; upstream saw the gain of such a table
        vanish at depth 25. The larger the vocabulary, the more pairs occur, and those that share a row disturb each
        other. At depth 2, vocabulary 8,192, 2.4 M tokens, 20 rows a token gave 1.725 instead of 1.740.

        So there is a row for every 410 possible pairs (20 a token at 8,192), at least 5 a token, as far as memory may
        go."""
        if self.depth >= SMALL_DEPTH:
            return 0
        return max(5 * self.vocab_size, min(self.vocab_size**2 // 410, PAIR_WEIGHTS // self.width)) + 1

    @property
    def dense_flops_per_token(self) -> int:
        """Training FLOPs per token, forward and backward (https://arxiv.org/abs/2204.02311), with full attention."""
        return 6 * self.scaling_params + 12 * self.depth * self.width * self.seq_len


def shape(depth: int, vocab_size: int, seq_len: int) -> Shape:
    """Width is 64 per layer; heads are 128 wide, as upstream's, and 64 in small models so that they have several."""
    width = ASPECT * depth
    head = 64 if depth < SMALL_DEPTH else 128
    width = math.ceil(width / head) * head
    return Shape(depth, width, width // head, vocab_size, seq_len)


@dataclass(frozen=True)
class Rates:
    """Peak learning rates per parameter group, and the weight decay of the matrices."""

    matrix: float = 0.02
    embedding: float = 0.3
    head: float = 0.008
    weight_decay: float = 0.28
    scalar: float = 0.5

    def scaled(self, factor: float) -> Rates:
        return replace(
            self,
            matrix=self.matrix * factor,
            embedding=self.embedding * factor,
            head=self.head * factor,
            scalar=self.scalar * factor,
        )


def tokens(s: Shape, per_param: float) -> int:
    return int(per_param * s.scaling_params)


def batch_tokens(s: Shape, n_tokens: int, per_param: float) -> int:
    """Tokens per optimiser step: a power of two, at least one sequence."""
    reference = tokens(shape(REFERENCE_DEPTH, REFERENCE_VOCAB, 2048), per_param)
    best = min(MAX_BATCH, 2 ** round(math.log2(REFERENCE_BATCH * (n_tokens / reference) ** BATCH_EXPONENT)))
    fewest = MIN_STEPS if best < MAX_BATCH else MIN_STEPS_AT_MOST
    best = min(best, 2 ** math.floor(math.log2(max(2, n_tokens / fewest))))
    return max(s.seq_len, MIN_BATCH, best)


def rates(s: Shape, batch: int, n_tokens: int, per_param: float) -> Rates:
    """Learning rates follow sqrt(batch), AdamW's also width^-0.5; decay keeps the averaging time per run constant
    (https://arxiv.org/abs/2405.13698).

    Below SMALL_BATCH the square root gives rates far too low: at depth 4, batch 4096 and 1.2 M tokens of the tiny
    world, matrix 0.35 and AdamW 0.09 of the reference gave 0.49 bits per byte, 1.0 and 0.4 gave 0.32. On as much
    English, matrix 0.7, 1.0 and 1.5 gave 1.867, 1.874 and 1.875.
    """
    r = Rates()
    root = math.sqrt(batch / REFERENCE_BATCH)
    matrix, adamw = (0.7, 0.4) if batch <= SMALL_BATCH else (root, root)
    scalar = r.scalar * adamw
    adamw *= (s.width / 768) ** -0.5
    reference = tokens(shape(REFERENCE_DEPTH, REFERENCE_VOCAB, 2048), per_param)
    decay = r.weight_decay * (batch / REFERENCE_BATCH) * (reference / n_tokens) / matrix
    return Rates(r.matrix * matrix, r.embedding * adamw, r.head * adamw, decay, scalar)


def muon_every(batch: int) -> int:
    """Steps between two updates of a matrix by Muon, whose cost does not depend on the batch."""
    return 2 if batch <= SMALL_BATCH else 1


def few_rows(batch: int) -> bool:
    """Whether a step touches so few rows of the token tables that only these should be updated."""
    return batch <= SMALL_BATCH


def short_share(batch: int, seq_len: int) -> float:
    """Share of the steps, those at the beginning, whose sequences are half as long: faster, and no worse in the end."""
    return 0.5 if batch <= SMALL_BATCH and seq_len % 2 == 0 and seq_len >= 2 * SHORTEST else 0.0


def default_seq_len(depth: int) -> int:
    return 512 if depth < SMALL_DEPTH else 2048


def default_vocab(depth: int) -> int:
    return 8192 if depth < SMALL_DEPTH else 32768


def depth_for_flops(flops: float, per_param: float, vocab_size: int = 0, seq_len: int = 0) -> int:
    """The depth whose run of so many tokens per parameter costs closest to `flops` (on a log scale)."""
    return _closest(flops, vocab_size, seq_len, lambda s: per_param * s.scaling_params)


def depth_for_budget(flops: float, per_param: float, vocab_size: int = 0, seq_len: int = 0) -> int:
    """The depth that learns most from about `flops`, however many tokens that makes.

    As `depth_for_flops`, but a head with more weights than the matrices counts as much as they do: else the smallest
    models would get far too many tokens. Measured: docs/pretraining.md, "Which depth for how long".
    """

    def counted(s: Shape) -> float:
        return per_param * (s.matrix_params + min(s.matrix_params, s.vocab_size * s.width))

    return _closest(flops, vocab_size, seq_len, counted)


def _closest(flops: float, vocab_size: int, seq_len: int, n_tokens: Callable[[Shape], float]) -> int:
    def distance(depth: int) -> float:
        s = shape(depth, vocab_size or default_vocab(depth), seq_len or default_seq_len(depth))
        return abs(math.log(n_tokens(s) * s.dense_flops_per_token / flops))

    return min(range(1, 65), key=distance)


def batch_of_few(tokens: float, whole: int, most: int, steps: int) -> int:
    """Tokens per step, so that there are at least so many steps: a power of two of `whole`, a row for every rank, and
    where possible no more than `most`."""
    rows = max(1, int(min(tokens / steps, most)) // whole)
    return int(whole * 2 ** (rows.bit_length() - 1))
