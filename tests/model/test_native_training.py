"""A training's loss, attention and products in native code: against float64, on every level, with any threads."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat.model import GPT, ModelConfig
from nanochat.model.blocked import blocked
from nanochat.model.gpt import Linear
from nanochat.model.loss import linear_cross_entropy
from nanochat.model.product import product
from nanochat.native import has_native, native, native_worker
from tests.model.test_attention import plain
from tests.model.test_loss import reference

MODULE = native()
FOUND: list[str] = sorted(MODULE.levels()) if MODULE else []
pytestmark = pytest.mark.skipif(not FOUND, reason="no native code for this processor")
CPU = torch.device("cpu")


def losses(h: torch.Tensor, w: torch.Tensor, targets: torch.Tensor, cap: float, **how: Any) -> list[torch.Tensor]:
    """The loss and its gradients."""
    leaves = [x.detach().clone().requires_grad_() for x in (h, w)]
    total = linear_cross_entropy(*leaves, targets, cap, **how)
    return [total.detach(), *torch.autograd.grad(total * 0.7, leaves)]


@pytest.mark.parametrize("name", FOUND)
@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(0, 250), vocab=st.integers(1, 700), width=st.integers(1, 70), cap=st.sampled_from([15.0, 30.0]),
    seed=st.integers(0, 999), size=st.sampled_from([0.1, 1.0, 5.0]),
)  # fmt: skip
@example(n=800, vocab=513, width=33, cap=15.0, seed=0, size=1.0)  # more than are taken at once
@example(n=3, vocab=1, width=1, cap=15.0, seed=0, size=1.0)
def test_the_loss_and_its_gradients(
    name: str, n: int, vocab: int, width: int, cap: float, seed: int, size: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_CPU", name)
        g = torch.Generator().manual_seed(seed)
        h, w = torch.randn(n, width, generator=g) * size, torch.randn(vocab, width, generator=g) * width**-0.5
        targets = torch.randint(-1, vocab, (n,), generator=g)
        exact = [x.double().requires_grad_() for x in (h, w)]
        expected = reference(*exact, targets, cap)
        wanted = [expected.detach(), *torch.autograd.grad(expected * 0.7, exact)]
        assert has_native(h.dtype, CPU)
        for a, b in zip(losses(h, w, targets, cap, in_native=True), wanted, strict=True):
            assert a.dtype == torch.float32
            scale = b.abs().amax().item() if b.numel() else 0.0
            torch.testing.assert_close(a.double(), b, atol=1e-5 * max(1.0, scale), rtol=1e-5)


@pytest.mark.parametrize("name", FOUND)
@settings(deadline=None, max_examples=40)
@given(
    T=st.integers(1, 130), dim=st.integers(1, 70), window=st.integers(0, 150),
    groups=st.sampled_from([(1, 1), (3, 3), (4, 2)]), seed=st.integers(0, 99), size=st.sampled_from([0.1, 1.0, 4.0]),
)  # fmt: skip
@example(T=300, dim=64, window=100, groups=(2, 1), seed=0, size=1.0)
@example(T=1, dim=22, window=0, groups=(1, 1), seed=0, size=4.0)  # whose errors are the largest that were seen: 9e-5
@example(T=97, dim=128, window=1 << 30, groups=(2, 2), seed=0, size=1.0)
def test_attention_and_its_gradients(
    name: str, T: int, dim: int, window: int, groups: tuple[int, int], seed: int, size: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_CPU", name)
        g = torch.Generator().manual_seed(seed)
        shapes = [(2, heads, T, dim) for heads in (groups[0], groups[1], groups[1])]
        given = [(torch.randn(shape, generator=g) * size).requires_grad_() for shape in shapes]
        exact = [x.detach().double().requires_grad_() for x in given]
        scale = dim**-0.5
        out, expected = blocked(*given, window, scale, 0), plain(*exact, window, scale)
        assert "Native" in str(out.grad_fn.next_functions if out.grad_fn else "")
        by = torch.randn(out.shape, generator=g)
        found = [out.detach(), *torch.autograd.grad(out, given, by)]
        wanted = [expected.detach(), *torch.autograd.grad(expected, exact, by.double())]
        for a, b in zip(found, wanted, strict=True):
            # Large scores have large errors in float32, whoever computes them.
            most = max(1.0, b.abs().max().item()) * max(1.0, size * size)
            torch.testing.assert_close(a.double(), b, atol=1e-5 * most, rtol=1e-5)


@pytest.mark.parametrize("name", FOUND)
@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 130), k=st.integers(0, 90), m=st.integers(0, 130), turned=st.booleans(),
    seed=st.integers(0, 999),
)  # fmt: skip
@example(n=301, k=700, m=67, turned=True, seed=0)  # more inputs than are taken at once
@example(n=67, k=700, m=301, turned=False, seed=0)
@example(n=96, k=256, m=64, turned=False, seed=0)  # whole tiles and strips
@example(n=1, k=513, m=1, turned=True, seed=0)
def test_products(name: str, n: int, k: int, m: int, turned: bool, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_CPU", name)
        g = torch.Generator().manual_seed(seed)
        a, b = torch.randn(n, k, generator=g), torch.randn(k, m, generator=g)
        given = b.mT.contiguous() if turned else b
        found = product(a, given, turned)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), a.double() @ b.double(), atol=1e-6 * (k + 1) ** 0.5 * 4, rtol=1e-5)
        assert torch.equal(product(a[: n // 3], given, turned), found[: n // 3]), "a row's numbers are its own"


def test_a_linear_layer_and_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, x = Linear(40, 50), torch.randn(3, 7, 40, requires_grad=True)
    found = []
    products = []
    monkeypatch.setattr(
        "nanochat.model.product.product", lambda *given, **how: products.append(1) or product(*given, **how)
    )
    for matrix.native in (False, True):
        y = matrix(x)
        assert len(products) == matrix.native
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), (x, matrix.weight))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        assert torch.equal(matrix(x), torch.nn.functional.linear(x, matrix.weight)), "evaluation is torch's"


@pytest.mark.parametrize("name", FOUND)
def test_a_confident_token_is_as_exact_as_any(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near p = 1 the gradient is p - 1, which rounding would lose."""
    monkeypatch.setenv("NANOCHAT_CPU", name)
    h = torch.eye(8) * 12
    w, targets = 2 * torch.eye(8) - 1, torch.arange(8)
    exact = [x.double().requires_grad_() for x in (h, w)]
    wanted = torch.autograd.grad(reference(*exact, targets, 15.0) * 0.7, exact)
    _, *found = losses(h, w, targets, 15.0, in_native=True)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.double(), b, atol=0, rtol=1e-4)


def test_numbers_do_not_depend_on_the_threads() -> None:
    assert MODULE
    g = torch.Generator().manual_seed(0)
    h, w = torch.randn(700, 40, generator=g), torch.randn(600, 40, generator=g)
    targets = torch.randint(-1, 600, (700,), generator=g)
    q, k, v, by = torch.randn(4, 5, 100, 24, generator=g)
    for name in FOUND:
        found = []
        for threads in (1, 2, 5):
            grads = torch.full_like(h, 9), torch.full_like(w, 9)
            numbers = [x.numpy() for x in (h, w, targets)]
            head = MODULE.Head(name, threads)
            total = head.loss(*numbers, 15.0, *(x.numpy() for x in grads))
            assert head.loss(*numbers, 15.0, *(x.numpy() for x in grads)) == total, "memory that was used before"
            attention = MODULE.Attention(name, threads)
            out, logs, *back = (torch.full_like(x, 9) for x in (q, q[..., 0], q, k, v))
            heads = [x.numpy() for x in (q, k, v)]
            attention.forward(*heads, 30, 0.2, out.numpy(), logs.numpy())
            attention.backward(*heads, 30, 0.2, logs.numpy(), by.numpy(), *(x.numpy() for x in back))
            products = MODULE.Product(name, threads)
            wide, narrow = torch.full((700, 600), 9.0), torch.full((700, 40), 9.0)
            products.multiply(h.numpy(), w.numpy(), True, wide.numpy())
            products.multiply(wide.numpy(), w.numpy(), False, narrow.numpy())
            found.append([torch.tensor(total), *grads, out, logs, *back, wide, narrow])
        for other in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(other, found[0], strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(bad: float) -> None:
    h, w = torch.ones(5, 8), torch.ones(20, 8)
    h[2, 3] = bad
    assert not all(x.isfinite().all() for x in losses(h, w, torch.arange(5), 15.0, in_native=True))
    q = torch.ones(1, 1, 5, 8)
    assert not product(h, w, turned=True)[2].isfinite().any()
    q[0, 0, 2, 3] = float("nan")
    assert blocked(q.requires_grad_(), q, q, 9, 1.0, 0).isnan().any()


def test_what_is_no_number_is_not_left_behind() -> None:
    """In memory that the next call uses."""
    for size in (float("nan"), 1.0):
        q = (torch.randn(2, 3, 200, 24) * size).requires_grad_()
        y = blocked(q, q, q, 300, 0.2, 0)
        (grad,) = torch.autograd.grad(y, q, torch.ones_like(y))
    assert y.isfinite().all() and grad.isfinite().all()


def test_how_its_inputs_lie_does_not_matter() -> None:
    h, w, targets = torch.randn(8, 50), torch.randn(8, 70), torch.arange(50)
    losses(torch.randn(9, 8), torch.randn(70, 8), torch.arange(9), 15.0, in_native=True)  # leaves its numbers behind
    for a, b in zip(
        losses(h.t(), w.t(), targets, 15.0, in_native=True), losses(h.t(), w.t(), targets, 15.0), strict=True
    ):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(product(h.t(), w), h.t() @ w)
    q = torch.randn(2, 30, 3, 8).transpose(1, 2).requires_grad_()
    y = [blocked(q, q, q, 20, 0.3, block) for block in (0, 8)]
    torch.testing.assert_close(*y)
    torch.testing.assert_close(*(torch.autograd.grad(out.sum(), q) for out in y))


def test_a_cap_that_may_overflow_is_torchs() -> None:
    h, w = torch.full((1, 1), 30.0), torch.tensor([[5.0], [3.0]])  # logits of 150 and 90
    for cap in (1000.0, 81.0):
        found = losses(h, w, torch.tensor([1]), cap, in_native=True)
        assert all(
            torch.equal(a, b) or a.isnan().any()
            for a, b in zip(found, losses(h, w, torch.tensor([1]), cap), strict=True)
        )
    total, *_ = losses(h, w, torch.tensor([1]), 80.0, in_native=True)
    expected = reference(h.double(), w.double(), torch.tensor([1]), 80.0)
    torch.testing.assert_close(total.double(), expected, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    h, w, targets = torch.ones(5, 8), torch.ones(20, 8), torch.arange(5)
    with pytest.raises(IndexError, match="outside the vocabulary"):
        linear_cross_entropy(h, w, targets + 16, 15.0, in_native=True)
    head, attention = native_worker("Head"), native_worker("Attention")
    with pytest.raises(ValueError, match="do not fit"):
        head.loss(h.numpy(), w.numpy(), targets.numpy(), 15.0, h.numpy(), h.numpy())
    with pytest.raises(TypeError):
        head.loss(h.numpy(), w.numpy(), targets.numpy(), 15.0, h.t().contiguous().t().numpy(), w.numpy())
    for turned in (False, True):
        with pytest.raises(ValueError, match="do not fit"):
            product(h if turned else w, w[:, 1:], turned)
    with pytest.raises(ValueError, match="do not fit"):
        native_worker("Product").multiply(h.numpy(), w.numpy(), True, w.numpy())
    q = torch.ones(2, 5, 8).numpy()
    with pytest.raises(ValueError, match="do not fit"):
        attention.forward(q, q, q[:1], 3, 1.0, q, q[..., 0].copy())


def test_other_dtypes_and_torch_itself_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    h, w, targets = torch.randn(5, 8), torch.randn(20, 8), torch.arange(5)
    ours = losses(h, w, targets, 15.0, in_native=True)
    monkeypatch.setenv("NANOCHAT_CPU", "torch")
    assert not has_native(torch.float32, CPU)
    for a, b in zip(losses(h, w, targets, 15.0, in_native=True), losses(h, w, targets, 15.0), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(ours[0], losses(h, w, targets, 15.0)[0])
    monkeypatch.delenv("NANOCHAT_CPU")
    assert not has_native(torch.bfloat16, CPU) and not has_native(torch.float32, torch.device("cuda"))
    wide = losses(h.double(), w.double(), targets, 15.0, in_native=True)
    assert all(x.dtype == torch.float64 for x in wide)


@pytest.mark.parametrize(
    ("compiled", "again"), [(False, False), pytest.param(True, False, marks=pytest.mark.slow), (False, True)]
)
def test_a_model_trains_the_same(compiled: bool, again: bool) -> None:
    """again: what a layer computes is computed again in the backward pass."""
    config = ModelConfig(2, 64, 4, 2, 301, 64, "modern", 100000.0, bigram=31)
    ids = torch.randint(0, 301, (3, 65), generator=torch.Generator().manual_seed(0))
    found = []
    for native_code in (False, True):
        model = GPT(config).init_weights(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
        model.native_loss, model.checkpoint_activations = native_code, again
        model.use_native_products(native_code)
        assert model.layers[1].attn.k.native == native_code and not model.layers[1].attn.gate.native
        if compiled:
            model.compile_parts()
        for layer in model.layers:
            layer.attn.block = 0 if native_code else 32
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-4)


def test_nothing_is_said_of_what_is_left_at_the_end() -> None:
    """Not even of what nobody frees: commands end without looking for garbage."""
    code = "import atexit, gc; atexit.register(gc.freeze); from nanochat.native import native_worker as of"
    code += "; print(of('Head'), of('Attention'), of('Product')); left = [of('Head')]; left.append(left); del left"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Head" in done.stdout and not done.stderr
