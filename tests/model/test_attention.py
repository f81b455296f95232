"""Blocked and flexible attention against plain masked attention in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.model import attention


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int, scale: float) -> torch.Tensor:
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
    distance = torch.arange(q.size(2))[:, None] - torch.arange(q.size(2))[None]
    scores = (q @ k.mT * scale).masked_fill((distance < 0) | (distance > window), float("-inf"))
    return scores.softmax(-1) @ v


def inputs(T: int, heads: int, kv_heads: int, seed: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    sizes = ((2, heads, T, 4), (2, kv_heads, T, 4), (2, kv_heads, T, 4))
    return [torch.randn(size, dtype=torch.float64, generator=g, requires_grad=True) for size in sizes]


@settings(deadline=None, max_examples=40)
@given(
    T=st.integers(1, 40), window=st.integers(0, 50), block=st.integers(1, 20), groups=st.sampled_from([(2, 2), (4, 2)]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_blocked_values_and_gradients(T: int, window: int, block: int, groups: tuple[int, int], seed: int) -> None:
    qkv = inputs(T, *groups, seed)
    expected, got = plain(*qkv, window, 0.3), attention.blocked(*qkv, window, 0.3, block)
    assert torch.allclose(got, expected, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(attention.forward_only(*qkv, window, 0.3, block), expected, atol=1e-12)
    weight = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), qkv), torch.autograd.grad((expected * weight).sum(), qkv), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("window", [3, 17, attention.LONGEST * 2])
def test_the_flexible_backend_gives_the_same(window: int) -> None:
    qkv = [x.detach().float() for x in inputs(40, 4, 2, 0)]
    mask = attention._flex_mask(40, window, qkv[0].device)
    assert torch.allclose(attention._flex(*qkv, mask, 0.3), plain(*qkv, window, 0.3), atol=1e-5)


@pytest.mark.parametrize("window", [3, 17, 1 << 30])
def test_torchs_own_with_masks_gives_the_same(window: int) -> None:
    qkv = inputs(40, 4, 2, 0)
    assert torch.allclose(attention.attend(*qkv, window, 0.3, None, "sdpa"), plain(*qkv, window, 0.3), atol=1e-12)


def packed(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_ends: torch.Tensor, k_ends: torch.Tensor, max_q: int,
    max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """What varlen_attn says it does, for sequences of tokens (n, H, D) one behind the other."""
    assert q_ends is k_ends and window_size[1] == 0 and q_ends.dtype == torch.int32
    window_size = (window_size[0] if window_size[0] >= 0 else max_q, 0)
    assert enable_gqa or q.size(1) == k.size(1)
    found = []
    for begin, end in zip(q_ends.tolist()[:-1], q_ends.tolist()[1:], strict=True):
        assert end - begin == max_q == max_k
        row = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
        found.append(plain(*row, window_size[0], scale)[0].transpose(0, 1))
    return torch.cat(found)


@pytest.mark.parametrize("shares_keys", [True, False])
@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("backend", ["fa3", "flash"])
def test_flash_is_asked_for_the_same(
    backend: attention.Backend, kv_heads: int, shares_keys: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a torch whose kernel wants as many key heads as query heads."""
    monkeypatch.setattr(attention, "varlen", lambda: packed)
    monkeypatch.setattr(attention, "flash_takes", lambda *arguments: shares_keys)
    qkv = inputs(40, 4, kv_heads, 0)
    for window in (7, 1 << 30):
        got = attention.attend(*qkv, window, 0.3, None, backend)
        assert torch.allclose(got, plain(*qkv, window, 0.3), atol=1e-12)


def test_torch_has_flash_as_it_is_called() -> None:
    """On tensors without numbers: only shapes and arguments are looked at."""
    q, k = (torch.empty(2, heads, 40, 64, device="meta", dtype=torch.bfloat16) for heads in (4, 2))
    assert attention.attend(q, k, k, 16, 0.3, None, "flash").shape == q.shape


@pytest.mark.parametrize("window", [3, 1 << 30])
def test_evaluation_with_the_flexible_backend_never_sees_all_scores(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_flex", lambda *args: pytest.fail("not compiled, it would hold T x T scores"))
    qkv = [x.detach() for x in inputs(40, 4, 2, 0)]
    with torch.no_grad():
        got = attention.attend(*qkv, window, 0.3, None, "flex")
    assert torch.allclose(got, plain(*qkv, window, 0.3), atol=1e-12)


def test_longer_than_blocks_may_see() -> None:
    qkv = [x.detach().float() for x in inputs(attention.LONGEST + 5, 2, 2, 0)]
    full = attention.attend(*qkv, 1 << 30, 0.3)
    assert torch.allclose(full, plain(*qkv, 1 << 30, 0.3), atol=1e-5)


def test_a_window_never_builds_a_square_of_the_context() -> None:
    """The largest tensor that 4,096 tokens with a window of 128 need is a block of scores (upstream #825)."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    q = torch.randn(1, 1, 4096, 8)
    with Watch():
        attention.attend(q, q, q, 128, 0.3)
    assert largest == attention.BLOCK * (attention.BLOCK + 128)


def test_a_cpu_uses_blocks() -> None:
    chosen = attention.choose_attention(torch.device("cpu"), torch.bfloat16)
    assert (str(chosen), chosen.refused) == ("blocked", ())
