"""A watched forward pass: the same as a plain one, and what it tells of the layers is what they did."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.model import GPT, ModelConfig
from nanochat.model.attention import attend
from nanochat.model.trace import Watched, attention_row, trace

CLASSIC = ModelConfig(depth=3, width=32, heads=4, kv_heads=2, vocab_size=97, seq_len=40)
MODERN = ModelConfig(4, 32, 4, 2, 97, 300, "modern", 100000.0, windows="SSL", bigram=53)  # windows of 128
ONE_LAYER = replace(MODERN, depth=1, bigram=0)
EVERY = pytest.mark.parametrize("config", [CLASSIC, MODERN, ONE_LAYER], ids=["classic", "modern", "one_layer"])


def make(config: ModelConfig, dtype: torch.dtype = torch.float64) -> GPT:
    model = GPT(config, dtype).init_weights(0).to(dtype)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_((torch.randn(p.shape, generator=g, dtype=torch.float64) * 0.2).to(dtype))
    return model.eval()


def ids_for(config: ModelConfig) -> list[int]:
    return torch.randint(0, 97, (min(config.seq_len, 200),), generator=torch.Generator().manual_seed(3)).tolist()


def without_layers_after(model: GPT, last: int) -> GPT:
    """The model whose layers after `last` pass on their input as it is."""
    cut = copy.deepcopy(model)
    with torch.no_grad():
        for layer in range(last + 1, model.config.depth):
            cut.layers[layer].attn.out.weight.zero_()
            cut.layers[layer].mlp.down.weight.zero_()
            if model.config.modern:
                cut.resid_lambdas[layer], cut.x0_lambdas[layer] = 1.0, 0.0
                if model.config.bigram:
                    cut.bigram_lambdas[layer] = 0.0
    return cut


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_watched_pass_is_the_plain_one(config: ModelConfig, dtype: torch.dtype) -> None:
    model, ids = make(config, dtype), ids_for(config)
    plain = model.hidden(torch.tensor([ids]))[0]
    for position in (0, 1, len(ids) // 2, len(ids) - 1):
        found = trace(model, ids, position)
        assert torch.equal(found.hidden, plain)
        assert torch.equal(found.lens[-1], plain[position])
        if dtype == torch.float64:
            said = model.logits(found.lens)[-1]
            assert (said - model(torch.tensor([ids]))[0, position]).abs().max() < 1e-10


@EVERY
@torch.no_grad()
def test_the_lens_is_the_model_without_the_layers_after(config: ModelConfig) -> None:
    model, ids = make(config), ids_for(config)
    position = len(ids) - 5
    found = model.logits(trace(model, ids, position).lens)
    assert found.shape == (config.depth, config.vocab_size)
    for layer in range(config.depth):
        expected = without_layers_after(model, layer)(torch.tensor([ids]))[0, position]
        # Before the middle layer, the cut model subtracts a share of the state itself, which only norm's epsilon sees.
        assert (found[layer] - expected).abs().max() < (1e-4 if layer < config.depth // 2 else 1e-10)


class WithValues(Watched):
    """Also keeps each layer's values (G, T, D), and what its attention gave at the position (H, D)."""

    def __init__(self, ids: Tensor, position: int) -> None:
        super().__init__(ids, position)
        self.given: list[tuple[Tensor, Tensor]] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
        y = super().attend(layer, q, k, v, window, scale)
        self.given.append((v[0], y[0, :, self.position]))
        return y


@EVERY
@torch.no_grad()
def test_attention_rows_make_the_attentions_output(config: ModelConfig) -> None:
    model, ids = make(config), ids_for(config)
    for position in (0, 100 % len(ids), len(ids) - 1):
        watched = WithValues(torch.tensor([ids]), position)
        model.hidden(torch.tensor([ids]), watched)
        assert len(watched.rows) == config.depth
        for layer, (row, (v, y)) in enumerate(zip(watched.rows, watched.given, strict=True)):
            assert row.shape == (config.heads, position + 1)
            assert (row.sum(-1) - 1).abs().max() < 1e-12
            assert row[:, : max(0, position - config.window(layer))].count_nonzero() == 0
            shared = v.repeat_interleave(config.heads // config.kv_heads, 0)[:, : position + 1]
            assert ((row[:, None] @ shared)[:, 0] - y).abs().max() < 1e-12


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(1, 20),
    position=st.integers(0, 19),
    window=st.integers(0, 25),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 99),
)
def test_a_row_of_any_shape(T: int, position: int, window: int, groups: int, seed: int) -> None:
    position %= T
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, n, T, 6, generator=g, dtype=torch.float64) for n in (4, groups, groups))
    row = attention_row(q, k, position, window, 0.7)
    with torch.no_grad():
        expected = attend(q, k, v, window, 0.7)[0, :, position]
    values = v[0].repeat_interleave(4 // groups, 0)[:, : position + 1]
    assert ((row[:, None] @ values)[:, 0] - expected).abs().max() < 1e-12
