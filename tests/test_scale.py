"""The one dial."""

from __future__ import annotations

import pytest

from nanochat import scale


@pytest.mark.parametrize(
    ("depth", "width", "heads"),
    [(1, 64, 1), (4, 256, 4), (9, 576, 9), (12, 768, 6), (13, 896, 7), (20, 1280, 10), (32, 2048, 16)],
)
def test_depth_decides_the_shape(depth: int, width: int, heads: int) -> None:
    """From depth 10 on as upstream's: heads of 128, and a width that is a multiple of that."""
    s = scale.shape(depth, 65536, 2048)
    assert (s.width, s.heads) == (width, heads)


def test_the_seeds_d20_has_its_known_size() -> None:
    s = scale.shape(20, 65536, 2048)
    assert s.matrix_params + 2 * s.vocab_size * s.width == 560_988_160  # "561M parameters"


@pytest.mark.parametrize(
    ("depth", "vocab", "rows"),
    [
        (4, 2048, 10_241),
        (4, 4096, 40_921),
        (2, 8192, 163_681),
        (4, 8192, 163_681),
        (8, 8192, 81_921),
        (9, 8192, 72_818),
        (4, 65536, 327_681),
        (10, 8192, 0),
    ],
)
def test_the_table_of_pairs_grows_with_the_pairs_there_can_be(depth: int, vocab: int, rows: int) -> None:
    assert scale.shape(depth, vocab, 512).bigram == rows


def test_a_long_run_takes_the_reference_batch_and_a_short_one_keeps_its_steps() -> None:
    d12 = scale.shape(12, 32768, 2048)
    assert scale.batch_tokens(d12, scale.tokens(d12, 12), 12) == 2**19
    d4 = scale.shape(4, 8192, 512)
    assert scale.batch_tokens(d4, 8_000_000, 12) == 4096
    assert scale.batch_tokens(d4, 40_000_000, 12) == 8192
    assert scale.batch_tokens(d4, 10, 12) == 4096


def test_rates_at_the_reference_are_the_tuned_ones() -> None:
    d12 = scale.shape(12, 32768, 2048)
    r = scale.rates(d12, 2**19, scale.tokens(d12, 12), 12)
    assert (r.matrix, r.embedding, r.head) == (0.02, 0.3, 0.008)
    assert r.weight_decay == pytest.approx(0.28)


def test_more_flops_never_mean_a_smaller_model() -> None:
    depths = [scale.depth_for_flops(10**e, 12) for e in range(12, 24)]
    assert depths == sorted(depths)
    for depth in (4, 12, 20):
        s = scale.shape(depth, scale.default_vocab(depth), scale.default_seq_len(depth))
        assert scale.depth_for_flops(scale.tokens(s, 12) * s.dense_flops_per_token, 12) == depth
    assert scale.depth_for_flops(1.0, 12) == 1
    # Among the smallest, what learns most from a budget is deeper than the one with 12 tokens per parameter.
    budgets = (8e12, 4e13, 1e14, 5e14, 2e15)
    assert [scale.depth_for_budget(flops, 12, 8192, 512) for flops in budgets] == [1, 2, 2, 3, 4]
    assert [scale.depth_for_flops(flops, 12, 8192, 512) for flops in budgets] == [1, 1, 2, 3, 4]
