"""The chunked loss against plain float64 autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.model import GPT, ModelConfig
from nanochat.model import loss as loss_module
from nanochat.model.loss import linear_cross_entropy


def reference(h: torch.Tensor, w: torch.Tensor, targets: torch.Tensor, cap: float) -> torch.Tensor:
    logits = cap * torch.tanh((h @ w.T) / cap)
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 40), vocab=st.integers(2, 60), chunk=st.integers(1, 500), seed=st.integers(0, 999))
def test_value_and_gradients_equal_autograd_in_float64(n: int, vocab: int, chunk: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(n, 8, dtype=torch.float64, generator=g, requires_grad=True)
    w = torch.randn(vocab, 8, dtype=torch.float64, generator=g, requires_grad=True)
    targets = torch.randint(-1, vocab, (n,), generator=g)
    expected = reference(h, w, targets, 15.0)
    wanted = torch.autograd.grad(expected * 0.7, (h, w))
    before, loss_module.CHUNK_ELEMENTS = loss_module.CHUNK_ELEMENTS, chunk
    try:
        got = linear_cross_entropy(h, w, targets, 15.0)
        grads = torch.autograd.grad(got * 0.7, (h, w))
    finally:
        loss_module.CHUNK_ELEMENTS = before
    assert torch.allclose(got, expected, atol=1e-9)
    for a, b in zip(grads, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def model() -> GPT:
    return GPT(ModelConfig(depth=1, width=32, heads=2, kv_heads=2, vocab_size=50, seq_len=16)).init_weights(0)


def test_reductions_agree() -> None:
    m = model()
    ids = torch.randint(0, 50, (3, 16), generator=torch.Generator().manual_seed(0))
    targets = ids.roll(-1, 1).masked_fill(ids % 3 == 0, -1)
    each = m.loss(ids, targets, reduction="none")
    assert each.shape == (3, 16)
    assert (each[targets < 0] == 0).all()
    assert float(m.loss(ids, targets, reduction="sum").detach()) == pytest.approx(float(each.detach().sum()), rel=1e-5)
    assert float(m.loss(ids, targets).detach()) == pytest.approx(
        float(each.detach().sum() / (targets >= 0).sum()), rel=1e-5
    )


def test_no_target_at_all_gives_zero_loss_and_gradient() -> None:
    m = model()
    loss = m.loss(torch.zeros(2, 16, dtype=torch.long), torch.full((2, 16), -1))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(float(p.grad.abs().sum()) == 0 for p in m.parameters() if p.grad is not None)
