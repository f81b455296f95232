"""Float8 products against float64, and where they are used."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.model import GPT, ModelConfig
from nanochat.model.float8 import ACTIVATION, GRADIENT, float8_linear, require_float8, to_float8
from nanochat.scale import shape


def distance(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.detach().double() - exact).norm() / exact.norm())


@settings(deadline=None, max_examples=30)
@given(size=st.floats(-30, 30), seed=st.integers(0, 99), dtype=st.sampled_from([ACTIVATION, GRADIENT]))
def test_numbers_of_any_size_keep_their_digits(size: float, seed: int, dtype: torch.dtype) -> None:
    """Three digits after the leading one (two in gradients): rounding moves a number by a 16th (an 8th) at most."""
    x = torch.randn(64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2.0**size
    small, scale = to_float8(x, dtype)
    assert small.float().isfinite().all()
    off = (small.double() * scale - x).abs()
    tiny = x.abs().max() * 2.0**-9  # below that, the spacing is fixed
    assert (off <= torch.where(x.abs() > tiny, x.abs() * (2**-4 if dtype == ACTIVATION else 2**-3), tiny)).all()


def test_zeros_stay_zeros() -> None:
    small, scale = to_float8(torch.zeros(3), ACTIVATION)
    assert (small.float() == 0).all() and scale.isfinite() and scale > 0


@pytest.mark.parametrize("way", ["plain", "compiled"])
def test_the_three_products(way: str) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 48, 128, generator=g).bfloat16().requires_grad_()
    w = (torch.randn(256, 128, generator=g) * 0.05).requires_grad_()
    up = torch.randn(2, 48, 256, generator=g).bfloat16()
    linear = torch.compile(float8_linear, backend="aot_eager", fullgraph=True) if way == "compiled" else float8_linear
    y = linear(x, w)
    assert y.dtype == torch.bfloat16
    grad_x, grad_w = torch.autograd.grad(y, (x, w), up)
    assert grad_w.dtype == torch.float32
    X, W, U = x.detach().double(), w.detach().double(), up.double()
    assert distance(y, X @ W.T) < 0.05
    assert distance(grad_x, U @ W) < 0.08
    assert distance(grad_w, U.flatten(0, 1).T @ X.flatten(0, 1)) < 0.08


def test_small_matrices_and_the_head_stay_as_they_were() -> None:
    model = GPT(ModelConfig.of(shape(2, 64, 32)))
    model.use_float8()
    chosen = {name for name, module in model.named_modules() if getattr(module, "float8", False)}
    assert "blocks.1.attn.q" in chosen and "blocks.0.mlp.down" in chosen
    assert not {"head", "smear_gate", "blocks.1.attn.gate"} & chosen


def test_a_machine_without_units_and_odd_contexts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        require_float8(torch.device("cpu"), 64)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    require_float8(torch.device("cuda"), 64)
    with pytest.raises(UserError, match="divisible by 16"):
        require_float8(torch.device("cuda"), 100)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        require_float8(torch.device("cuda"), 64)
