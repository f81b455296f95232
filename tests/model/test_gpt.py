"""Cached decoding equals the full forward pass; shapes, batching and bad sizes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from nanochat.console import UserError
from nanochat.model import GPT, ModelConfig
from nanochat.model.cache import KVCache
from nanochat.model.gpt import MLP, norm

SMALL = ModelConfig(depth=3, width=64, heads=4, kv_heads=4, vocab_size=97, seq_len=32)
GROUPED = ModelConfig(depth=2, width=64, heads=4, kv_heads=2, vocab_size=97, seq_len=32)
MODERN = ModelConfig(3, 64, 4, 2, 97, 32, "modern", 100000.0)
PAIRS = replace(MODERN, bigram=53)
# Windows of 128 in the first two layers, which the last tokens of a row leave behind.
WINDOWED = ModelConfig(3, 32, 2, 2, 97, 300, "modern", 100000.0, windows="SSL")
EVERY = [SMALL, GROUPED, MODERN, PAIRS, WINDOWED]


def make(config: ModelConfig, dtype: torch.dtype = torch.float64) -> GPT:
    """A model whose every weight matters: the projections that start at zero are filled too."""
    model = GPT(config, dtype).init_weights(0).to(dtype)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=torch.float64).to(dtype) * 0.05)
    return model.eval()


def parts(model: GPT, ids: torch.Tensor, cuts: list[int]) -> list[torch.Tensor]:
    """Logits of ids (rows, length), which a cache is given piece by piece: from each cut to the next."""
    rows = len(ids)
    cache = KVCache(model.config, rows, ids.size(1), "cpu", model.dtype)
    return [
        model(
            ids[:, a:b], cache.continued(range(rows), [a] * rows, ids[:, a - 1].tolist() if a else [-1] * rows, b - a)
        )
        for a, b in itertools.pairwise(cuts)
    ]


def ids_of(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", EVERY)
@torch.no_grad()
def test_cached_decoding_equals_the_full_forward(config: ModelConfig) -> None:
    """From an empty cache, token by token, and several tokens behind others."""
    model, length = make(config), min(config.seq_len, 200)
    ids = ids_of(2, length)
    full = model(ids)
    found = parts(model, ids, [0, 7, 8, 12, length - 8, *range(length - 7, length + 1)])
    assert (torch.cat(found, 1) - full).abs().max() < 1e-8


PARTS = [
    "resid_lambdas", "x0_lambdas", "smear_lambda", "smear_gate.weight", "backout_lambda", "value_embeds.0.weight",
    "blocks.2.attn.gate.weight", "bigram.weight", "bigram_lambdas",
]  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
@torch.no_grad()
def test_every_part_of_the_modern_model_matters_cached_as_uncached(name: str) -> None:
    """A part that decoding forgot would leave the logits as they were."""
    model, ids = make(PAIRS), ids_of(2, 12)

    def decoded() -> torch.Tensor:
        return torch.cat(parts(model, ids, list(range(13))), 1)

    before_full, before_cached = model(ids), decoded()
    model.get_parameter(name).mul_(1.5).add_(0.1)
    changed = model(ids) - before_full
    assert changed.abs().max() > 1e-4
    assert (decoded() - before_cached - changed).abs().max() < 1e-8


@torch.no_grad()
def test_a_window_hides_what_is_behind_it_and_nothing_else() -> None:
    """One layer with a window of 128: the token 128 before is seen, the one 129 before is not."""
    config = ModelConfig(2, 32, 2, 2, 97, 300, "modern", 100000.0, windows="S")
    model, ids = make(config), ids_of(1, 300)
    model.blocks[1].attn.out.weight.zero_()  # the last layer sees everything: leave the first alone
    for back, seen in ((127, True), (128, True), (130, False), (250, False)):
        changed = ids.clone()
        changed[0, 299 - back] = (changed[0, 299 - back] + 1) % 97
        # The smear carries a token one further: 129 back is still seen through its right neighbour.
        assert (model(changed)[0, -1] != model(ids)[0, -1]).any() == seen


def test_windows_and_bigrams_are_for_the_modern_model() -> None:
    for bad in ({"windows": "SL"}, {"bigram": 10}, {"windows": ""}, {"windows": "X"}):
        with pytest.raises(UserError):
            replace(SMALL, **bad)


@torch.no_grad()
def test_greedy_ids_are_the_same_cached_and_full_in_float32() -> None:
    model = make(SMALL, torch.float32)
    ids = ids_of(1, 5)
    cache = KVCache(SMALL, 1, 40, "cpu", torch.float32)
    logits, cached = model(ids, cache.continued([0], [0], [-1], 5)), ids
    for length in range(5, 35):
        new = logits[:, -1:].argmax(-1)
        logits = model(new, cache.continued([0], [length], cached[0, -1:].tolist(), 1))
        cached = torch.cat((cached, new), 1)
    full = ids
    for _ in range(30):
        full = torch.cat((full, model(full)[:, -1:].argmax(-1)), 1)
    assert cached.tolist() == full.tolist()


@pytest.mark.parametrize("config", EVERY)
@torch.no_grad()
def test_a_position_never_sees_the_future(config: ModelConfig) -> None:
    model, ids = make(config), ids_of(1, 16)
    changed = ids.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % 97
    assert torch.equal(model(ids)[:, :10], model(changed)[:, :10])


@torch.no_grad()
def test_longer_than_the_training_context_works() -> None:
    assert make(SMALL)(ids_of(1, 50)).shape == (1, 50, 97)


def test_squared_relu_keeps_its_result_only_and_has_its_gradient() -> None:
    mlp = MLP(SMALL).double()
    torch.nn.init.normal_(mlp.down.weight)
    x = torch.randn(3, SMALL.width, dtype=torch.float64, requires_grad=True)
    kept: set[int] = set()

    def keep(t: torch.Tensor) -> torch.Tensor:
        if t.shape == (3, 4 * SMALL.width):
            kept.add(t.untyped_storage().data_ptr())
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = mlp(x)
    expected = mlp.down(torch.nn.functional.relu(mlp.up(x)).square())
    torch.testing.assert_close(y, expected)
    wanted = (x, mlp.up.weight, mlp.down.weight)
    for got, right in zip(
        torch.autograd.grad(y.sin().sum(), wanted), torch.autograd.grad(expected.sin().sum(), wanted), strict=True
    ):
        torch.testing.assert_close(got, right)
    assert len(kept) == 1


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
    for config in EVERY:
        assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(UserError, match="version"):
        ModelConfig.from_dict({**SMALL.to_dict(), "format_version": 99})
    with pytest.raises(UserError, match="unknown keys: extra"):
        ModelConfig.from_dict({**SMALL.to_dict(), "extra": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("depth", "vocab_size", "bigram") for value in (1.5, True, None, "4", [], -1)),
        *(("rope_base", value) for value in (None, "x", -1.0, 0, float("nan"))),
        ("softcap", 0.0),
        ("windows", 3),
        ("arch", None),
        *(("rope_dtype", value) for value in ("float16", None, 16)),
        *(("norm_eps", value) for value in (-1e-6, 1, None, "1e-6")),
    ],
)
def test_a_config_that_makes_no_model_is_refused(name: str, value: object) -> None:
    with pytest.raises(UserError, match=name):
        ModelConfig.from_dict({**SMALL.to_dict(), name: value})


def test_a_norm_from_elsewhere_is_kept_and_ours_is_not_written() -> None:
    other = replace(SMALL, norm_eps=1e-6)
    assert ModelConfig.from_dict(other.to_dict()) == other
    assert "norm_eps" not in SMALL.to_dict()
    x = torch.full((1, 4), 1e-3)
    assert torch.allclose(norm(x, 1e-6), torch.tensor(0.5**0.5)) and (norm(x) > 0.9).all()


@pytest.mark.parametrize("values", [None, "x", 3, [1, 2]])
def test_a_config_that_is_no_object_is_refused(values: Any) -> None:
    with pytest.raises(UserError, match="no JSON object"):
        ModelConfig.from_dict(values)
