"""Cached decoding equals the full forward pass; shapes, batching and bad sizes."""

from __future__ import annotations

import pytest
import torch

from nanochat.console import UserError
from nanochat.model import GPT, KVCache, ModelConfig

SMALL = ModelConfig(depth=3, width=64, heads=4, kv_heads=4, vocab_size=97, seq_len=32)
GROUPED = ModelConfig(depth=2, width=64, heads=4, kv_heads=2, vocab_size=97, seq_len=32)


def make(config: ModelConfig, dtype: torch.dtype = torch.float64) -> GPT:
    """A model whose every weight matters: the projections that start at zero are filled too."""
    model = GPT(config, dtype).init_weights(0).to(dtype)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=torch.float64).to(dtype) * 0.05)
    return model.eval()


def ids_of(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [SMALL, GROUPED])
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(config: ModelConfig) -> None:
    model, ids = make(config), ids_of(2, 20)
    full = model(ids)
    cache = KVCache(config, 2, 20, "cpu", torch.float64)
    parts = [model(ids[:, :7], cache), model(ids[:, 7:8], cache), model(ids[:, 8:12], cache)]
    parts += [model(ids[:, t : t + 1], cache) for t in range(12, 20)]
    assert (torch.cat(parts, 1) - full).abs().max() < 1e-8


@torch.no_grad()
def test_greedy_ids_are_the_same_cached_and_full_in_float32() -> None:
    model = make(SMALL, torch.float32)
    ids = ids_of(1, 5)
    cache = KVCache(SMALL, 1, 40, "cpu", torch.float32)
    logits, cached = model(ids, cache), ids
    for _ in range(30):
        new = logits[:, -1:].argmax(-1)
        cached = torch.cat((cached, new), 1)
        logits = model(new, cache)
    full = ids
    for _ in range(30):
        full = torch.cat((full, model(full)[:, -1:].argmax(-1)), 1)
    assert cached.tolist() == full.tolist()


@torch.no_grad()
def test_rows_of_different_lengths_do_not_see_each_other() -> None:
    model = make(SMALL)
    ids = ids_of(2, 12)
    cache = KVCache(SMALL, 1, 16, "cpu", torch.float64)
    model(ids[:1, :9], cache)
    short = KVCache(SMALL, 1, 16, "cpu", torch.float64)
    model(ids[1:, :4], short)
    both = KVCache(SMALL, 2, 16, "cpu", torch.float64)
    both.keys = torch.cat((cache.keys, short.keys), 1)
    both.values = torch.cat((cache.values, short.values), 1)
    both.length = torch.cat((cache.length, short.length))
    together = model(torch.stack((ids[0, 9:10], ids[1, 4:5])), both)
    assert (together[0] - model(ids[:1, :10])[0, -1:]).abs().max() < 1e-8
    assert (together[1] - model(ids[1:, :5])[0, -1:]).abs().max() < 1e-8


@torch.no_grad()
def test_select_repeats_and_reorders_rows_and_reset_forgets_them() -> None:
    model, ids = make(SMALL), ids_of(2, 6)
    cache = KVCache(SMALL, 2, 16, "cpu", torch.float64)
    model(ids, cache)
    chosen = cache.select(torch.tensor([1, 0, 1]))
    nxt = torch.tensor([[3], [4], [5]])
    out = model(nxt, chosen)
    for row, source in enumerate((1, 0, 1)):
        alone = model(torch.cat((ids[source : source + 1], nxt[row : row + 1]), 1))[:, -1]
        assert (out[row] - alone).abs().max() < 1e-8
    cache.reset(torch.tensor([0]))
    assert cache.length.tolist() == [0, 6]


def test_a_full_cache_is_refused() -> None:
    cache = KVCache(SMALL, 1, 4, "cpu", torch.float32)
    with pytest.raises(ValueError, match="do not fit"):
        make(SMALL, torch.float32)(ids_of(1, 5), cache)


@torch.no_grad()
def test_a_position_never_sees_the_future() -> None:
    model, ids = make(SMALL), ids_of(1, 16)
    changed = ids.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % 97
    assert torch.equal(model(ids)[:, :10], model(changed)[:, :10])


@torch.no_grad()
def test_longer_than_the_training_context_works() -> None:
    assert make(SMALL)(ids_of(1, 50)).shape == (1, 50, 97)


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    model = GPT(SMALL).init_weights(0)
    loss = model.loss(ids_of(4, 32), ids_of(4, 32, 1))
    assert float(loss.detach()) == pytest.approx(torch.tensor(97.0).log().item(), abs=0.02)


def test_initial_weights_depend_on_the_seed_only() -> None:
    a, b, c = (GPT(SMALL).init_weights(s) for s in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.embed.weight, c.embed.weight)


@pytest.mark.parametrize("bad", [{"depth": 0}, {"width": 63}, {"kv_heads": 3}, {"vocab_size": 0}, {"arch": "other"}])
def test_impossible_sizes_are_refused(bad: dict) -> None:
    with pytest.raises(UserError):
        ModelConfig(**{**vars(SMALL), **bad})


def test_depth_zero_is_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match="depth is 0.*--depth=4"):
        ModelConfig.from_depth(0, 2048, 256)


def test_config_round_trip_and_newer_versions_are_refused() -> None:
    assert ModelConfig.from_dict(SMALL.to_dict()) == SMALL
    with pytest.raises(UserError, match="version"):
        ModelConfig.from_dict({**SMALL.to_dict(), "format_version": 99})
    with pytest.raises(UserError, match="unknown keys: extra"):
        ModelConfig.from_dict({**SMALL.to_dict(), "extra": 1})
