"""The recipes: their numbers are the published ones."""

from __future__ import annotations

import math

import pytest

from nanochat import scale
from nanochat.pipeline.recipes import RECIPES, shards_needed

SEED, GPT2 = RECIPES["seed"], RECIPES["gpt2"]


def test_the_seeds_runs_have_their_known_lengths() -> None:
    """Of its speedrun.sh and run1000.sh."""
    assert (SEED.steps(), SEED.tokens(), SEED.batch_tokens()) == (21_400, 11_219_763_200, 524_288)
    assert (SEED.steps(32), SEED.tokens(32)) == (71_680, 37_580_963_840)
    assert [SEED.shards(depth) for depth in (20, 26, 32)] == [240, 450, 800]


def test_the_way_past_gpt2_has_the_published_length() -> None:
    assert (GPT2.steps(), GPT2.batch_tokens()) == (5_568, 2**20)
    # Upstream loads 170 shards for as many tokens, since its packing throws a third of the text away.
    assert GPT2.shards() < 170 <= shards_needed(GPT2.tokens() / 0.65, GPT2.vocab_size) <= 180


@pytest.mark.parametrize("depth", range(18, 41))
def test_batches_of_the_published_size_and_never_larger(depth: int) -> None:
    for ratio in (8, 8.5, 10.5, 12, 20):
        s = scale.shape(depth, GPT2.vocab_size, 2048)
        assert scale.batch_tokens(s, scale.tokens(s, ratio), ratio) == 2**20


def test_the_cap_changes_no_smaller_batch() -> None:
    """As it was before there was one."""
    for depth in range(1, 18):
        for ratio in (0.5, 3, 12, 20, 40):
            s = scale.shape(depth, scale.default_vocab(depth), scale.default_seq_len(depth))
            n, reference = scale.tokens(s, ratio), scale.tokens(scale.shape(12, 32768, 2048), ratio)
            best = 2 ** round(19 + 0.383 * math.log2(n / reference))
            before = max(s.seq_len, 4096, min(best, 2 ** (int(n / 2500).bit_length() - 1)))
            assert scale.batch_tokens(s, n, ratio) == before or before >= 2**20


def test_text_is_enough_and_not_much_more() -> None:
    for tokens in (10**6, 10**9, 10**10, 10**11):
        for vocab in (300, 8192, 32768, 65536):
            shards = shards_needed(tokens, vocab)
            assert shards * 250e6 >= tokens and shards >= 8
            assert shards * 250e6 <= max(3e9, 5.5 * tokens)
