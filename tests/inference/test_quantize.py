"""Matrices in eight bits."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

from nanochat.console import UserError
from nanochat.inference.quantize import matrices, quantize_rows, ready, rounded
from nanochat.model import GPT

NUMBERS = st.one_of(
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.sampled_from([0.0, -0.0, 1e-38, 0.5, 1.5, 127.0]),
    st.integers(-127, 127),
)


@given(st.integers(1, 6).flatmap(lambda k: st.lists(st.lists(NUMBERS, min_size=k, max_size=k), min_size=1, max_size=5)))
def test_every_weight_is_within_half_a_step(rows: list[list[float]]) -> None:
    weight = torch.tensor(rows, dtype=torch.float32)
    whole, scales = quantize_rows(weight)
    assert (whole.dtype, whole.shape, scales.shape) == (torch.int8, weight.shape, weight.shape[:1])
    assert whole.abs().max() <= 127
    error = (whole.double() * scales.double()[:, None] - weight.double()).abs()
    assert (error <= scales.double()[:, None] * (0.5 + 1e-4) + 1e-43).all()
    assert torch.equal(quantize_rows(-weight)[0], -whole)
    assert torch.equal(quantize_rows(whole.float())[0][scales == 1], whole[scales == 1])


def test_halves_are_rounded_to_even() -> None:
    whole, scales = quantize_rows(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]]))
    assert (whole.tolist(), scales.tolist()) == ([[127, 0, 2, 2, 0, -2]], [1.0])


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(odd: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        quantize_rows(torch.tensor([[1.0, odd]]))


def test_only_the_large_matrices_are_rounded(model: GPT) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    copied = rounded(model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    changed = {name for name, p in copied.named_parameters() if not torch.equal(p, before[name])}
    linear = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Linear) and "gate" not in n}
    assert changed == linear == {name for name, _ in matrices(model)}
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    # Two roundings are one, and the result is near.
    assert (rounded(copied)(ids) - copied(ids)).abs().max() < 1e-4
    assert 0 < (copied(ids) - model(ids)).abs().max() < 2


def test_a_model_is_made_ready_without_rounding_twice(model: GPT) -> None:
    half = GPT(model.config, torch.bfloat16)
    half.load_state_dict(model.state_dict())
    before = {name: p.clone() for name, p in half.named_parameters()}
    wide = {name for name, p in ready(half, "int8").named_parameters() if p.dtype == torch.float32}
    assert wide == {name for name, _ in matrices(model)}
    assert all(torch.equal(p, before[name].to(p.dtype)) for name, p in half.named_parameters())
    assert {p.dtype for p in ready(half).parameters()} == {torch.bfloat16}


def test_weights_in_bfloat16_are_rounded_from_what_they_are(model: GPT) -> None:
    half = GPT(model.config, torch.bfloat16).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    for (_, kept), (_, weight) in zip(matrices(rounded(half)), matrices(half), strict=True):
        whole, scales = quantize_rows(weight.float())
        assert torch.equal(kept, whole.float() * scales[:, None])
