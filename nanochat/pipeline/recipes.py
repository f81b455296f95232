"""The recipes of a full run on GPUs, by name, and the text that they need. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nanochat import scale

SHARD_CHARS = 250e6  # text in one shard of the corpora on the Hub
# Characters in a token of English: 4.8 with 65,536 tokens, as the seed counts, and less with a smaller vocabulary.
CHARS, CHARS_VOCAB, CHARS_PER_DOUBLING = 4.8, 65536, 0.2
SPARE = 1.08  # text downloaded over text needed: a run that is short of text repeats some
FEWEST_SHARDS = 8  # 2 G characters, what the tokenizer learns from
FLOAT8 = 8.9  # compute capability from which a card multiplies float8
LARGE = 32  # the seed's run1000.sh: from this depth on it reads more text for the tokenizer and has small passes


@dataclass(frozen=True)
class Recipe:
    """How a model is pretrained.

    ratio: tokens per scaling parameter (matrices and head); per parameter, the embedding included, if count_all, as the
    seed counts. fp8: whether to use it on cards that have it. batch: tokens per step; 0: the dial.
    """

    name: str
    arch: scale.Arch
    depth: int
    vocab_size: int
    ratio: float
    dataset: str
    fp8: bool
    batch: int = 0
    count_all: bool = False

    def shape(self, depth: int = 0, vocab_size: int = 0) -> scale.Shape:
        """depth, vocab_size: 0 for the recipe's own, here and below."""
        depth = depth or self.depth
        return scale.shape(depth, vocab_size or self.vocab_size, scale.default_seq_len(depth))

    def batch_tokens(self, depth: int = 0, vocab_size: int = 0) -> int:
        s = self.shape(depth, vocab_size)
        return self.batch or scale.batch_tokens(s, scale.tokens(s, self.ratio), self.ratio)

    def steps(self, depth: int = 0, vocab_size: int = 0) -> int:
        s = self.shape(depth, vocab_size)
        counted = s.scaling_params + (s.vocab_size * s.width if self.count_all else 0)
        return max(1, int(self.ratio * counted) // self.batch_tokens(depth, vocab_size))

    def tokens(self, depth: int = 0, vocab_size: int = 0) -> int:
        """Tokens of the whole pretraining."""
        return self.steps(depth, vocab_size) * self.batch_tokens(depth, vocab_size)

    def shards(self, depth: int = 0, vocab_size: int = 0) -> int:
        return shards_needed(self.tokens(depth, vocab_size), vocab_size or self.vocab_size)

    def max_chars(self, depth: int) -> int:
        """Characters that the tokenizer learns from; 0: its default."""
        return 0 if not self.count_all else 4 * 10**9 if depth >= LARGE else 2 * 10**9

    def rows(self, depth: int) -> int:
        """Sequences per pass and card; 0: by the card's memory."""
        return 8 if self.count_all and depth >= LARGE else 0


RECIPES = {
    recipe.name: recipe
    for recipe in (
        # Upstream's cheapest published way past GPT-2: 5,568 steps of 2^20 tokens, 1.65 hours on eight H100.
        Recipe("gpt2", "modern", 24, 32768, 8.0, "climbmix", fp8=True),
        # The original of 2025: d20 has 561 M parameters and 11.2 B tokens, 3.8 hours on eight H100.
        Recipe("seed", "classic", 20, 65536, 20.0, "fineweb-edu", fp8=False, batch=2**19, count_all=True),
    )
}


def shards_needed(tokens: int | float, vocab_size: int) -> int:
    """Training shards to download for a pretraining of so many tokens. Our packing throws no text away; upstream's
    crops about a third at this context, which is why its d24 takes 170 shards."""
    chars = max(1.0, CHARS + CHARS_PER_DOUBLING * math.log2(vocab_size / CHARS_VOCAB))
    shards = SPARE * tokens * chars / SHARD_CHARS
    step = 1 if shards <= 100 else 10 if shards <= 500 else 50
    return max(FEWEST_SHARDS, math.ceil(shards / step) * step)
