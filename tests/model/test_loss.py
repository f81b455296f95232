"""The chunked loss against plain float64 autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.model import loss as loss_module
from nanochat.model.loss import linear_cross_entropy
from nanochat.scale import shape
from nanochat.train.fitting import forward_tokens


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_confident_tokens_in_half_precision(dtype: torch.dtype) -> None:
    """Logits up to 14.8 of 15, where exp(z) is more than float16 holds, and p - 1 less than bfloat16 tells apart."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(64, 32, generator=g).to(dtype)
    targets = torch.arange(48)
    # Every row looks along its target's own, some far.
    h = (w[:48].float() * torch.linspace(0.1, 1.2, 48)[:, None]).to(dtype)
    exact = [x.double().requires_grad_() for x in (h, w)]
    wanted = torch.autograd.grad(reference(*exact, targets, 15.0), exact)
    mine = [x.detach().clone().requires_grad_() for x in (h, w)]
    got = torch.autograd.grad(linear_cross_entropy(*mine, targets, 15.0), mine)
    for a, b in zip(got, wanted, strict=True):
        assert a.isfinite().all()
        rows, right = a.double().norm(dim=-1), b.norm(dim=-1)
        direction = (a.double() * b).sum(-1) / (rows * right).clamp_min(1e-30)
        seen = right > 1e-6
        assert direction[seen].min() > 0.99
        assert (rows / right)[seen].log().abs().max() < 0.1


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


def test_it_compiles_as_a_whole_and_goes_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 30 * 4)
    g = torch.Generator().manual_seed(0)
    h, w = torch.randn(10, 8, generator=g), torch.randn(30, 8, generator=g)
    targets = torch.randint(0, 30, (10,), generator=g)

    def grads(function: Any) -> list[torch.Tensor]:
        given = [h.clone().requires_grad_(), w.clone().requires_grad_()]
        (function(*given, targets, 15.0) / 3).backward()
        return [t.grad for t in given if t.grad is not None]

    whole = torch.compile(
        linear_cross_entropy, backend="aot_eager", fullgraph=True
    )  # as on a GPU: no break in the graph
    for a, b in zip(grads(whole), grads(linear_cross_entropy), strict=True):
        torch.testing.assert_close(a, b)
    loss = linear_cross_entropy(h.requires_grad_(), w.requires_grad_(), targets, 15.0)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


def test_a_gpu_takes_few_large_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It compiles the whole loss, every chunk anew: 2,048 of them would take hours."""
    gpu = Machine(torch.device("cuda"), torch.bfloat16, Ranks())
    monkeypatch.setattr(Machine, "memory", 85 * 10**9)
    for vocab in (32768, 65536):
        assert forward_tokens(shape(20, vocab, 2048), gpu) / loss_module.chunk_rows(vocab, gpu.device) <= 32
        assert loss_module.chunk_rows(vocab, torch.device("cpu")) == loss_module.CHUNK_ELEMENTS // vocab
    assert loss_module.chunk_rows(1 << 30, gpu.device) == 1
