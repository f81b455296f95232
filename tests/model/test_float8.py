"""Float8 products against float64, and where they are used."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat import gpus
from nanochat.console import UserError
from nanochat.feed.loader import MicroBatch, Step
from nanochat.machine import Machine, Ranks, peak_flops
from nanochat.model import GPT, ModelConfig, linear_cross_entropy
from nanochat.model.float8 import (
    ACTIVATION,
    GRADIENT,
    Rounded,
    float8_linear,
    require_float8,
    round_weights,
    to_float8,
)  # fmt: skip
from nanochat.optim import Optimizer, Schedule
from nanochat.scale import Rates, shape
from nanochat.train.step import LossScale, Stepper


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


def rounded(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = Rounded(w).tensors
    round_weights([w.detach()], [made])
    return made


@pytest.mark.parametrize("way", ["plain", "compiled"])
def test_the_three_products(way: str) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 48, 128, generator=g).bfloat16().requires_grad_()
    w = (torch.randn(256, 128, generator=g) * 0.05).requires_grad_()
    up = torch.randn(2, 48, 256, generator=g).bfloat16()
    linear = torch.compile(float8_linear, backend="aot_eager", fullgraph=True) if way == "compiled" else float8_linear
    y = linear(x, w, rounded(w))
    assert y.dtype == torch.bfloat16
    grad_x, grad_w = torch.autograd.grad(y, (x, w), up)
    assert grad_w.dtype == torch.float32
    X, W, U = x.detach().double(), w.detach().double(), up.double()
    assert distance(y, X @ W.T) < 0.05
    assert distance(grad_x, U @ W) < 0.08
    assert distance(grad_w, U.flatten(0, 1).T @ X.flatten(0, 1)) < 0.08


def test_a_rounded_weight_is_the_weight_by_rows_and_by_columns() -> None:
    w = torch.randn(32, 48, generator=torch.Generator().manual_seed(0))
    by_rows, by_columns, scale = rounded(w)
    assert torch.equal(by_rows.float().t(), by_columns.float()) and by_columns.is_contiguous()
    expected, expected_scale = to_float8(w, ACTIVATION)
    assert torch.equal(by_rows.float(), expected.float()) and torch.equal(scale, expected_scale)
    zero = rounded(torch.zeros(16, 16))
    assert zero[0].float().eq(0).all() and zero[2] > 0


@pytest.mark.parametrize("chunk", [40, 4096])  # of which a multiple of 16 is taken
@pytest.mark.parametrize("sure", [0.02, 4.0])  # the size of logits: all tokens likely, or one
def test_the_loss_in_float8(chunk: int, sure: float) -> None:
    """Its value and gradients, against float64; targets that do not count change nothing."""
    g = torch.Generator().manual_seed(0)
    h = torch.randn(144, 128, generator=g).bfloat16().requires_grad_()
    w = (torch.randn(512, 128, generator=g) * sure / 128**0.5).requires_grad_()
    targets = torch.randint(0, 512, (144,), generator=g)
    targets[::7] = -1
    ours = linear_cross_entropy(h, w, targets, 15.0, chunk=chunk, rounded=rounded(w))
    H, W = (x.detach().double().requires_grad_() for x in (h, w))
    exact = linear_cross_entropy(H, W, targets, 15.0)
    assert distance(ours, exact.detach()) < 0.01
    grads, exact_grads = torch.autograd.grad(ours, (h, w)), torch.autograd.grad(exact, (H, W))
    for a, b in zip(grads, exact_grads, strict=True):
        assert distance(a, b) < 0.09
    assert (grads[0][::7] == 0).all()


def small(dtype: torch.dtype = torch.bfloat16, float8: bool = True) -> GPT:
    model = GPT(ModelConfig.of(shape(2, 256, 64)), dtype).init_weights(0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.02)
    if float8:
        model.use_float8()
    return model


def test_large_matrices_and_the_head_are_used_and_gates_stay_as_they_were() -> None:
    model = small()
    chosen = {name for name, module in model.named_modules() if getattr(module, "float8", False)}
    assert {"head", "blocks.1.attn.q", "blocks.0.mlp.down"} <= chosen
    assert not {"smear_gate", "blocks.1.attn.gate"} & chosen
    assert not [name for name in model.state_dict() if "by_rows" in name or "scale" in name]
    odd = GPT(ModelConfig.of(shape(2, 265, 64)))
    odd.use_float8()
    assert not odd.head.float8 and odd.layers[0].attn.q.float8
    with pytest.raises(UserError, match="so small a model"):
        GPT(ModelConfig.of(shape(1, 64, 32))).use_float8()


class Rounding(TorchDispatchMode):
    """Counts what is written in e4m3, by shape."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in ("aten::_to_copy", "aten::copy_") and out.dtype == ACTIVATION:
            source = args[1] if name == "aten::copy_" else args[0]
            self.found[tuple(out.shape)] += source.dtype != ACTIVATION
        return out


@pytest.mark.parametrize("frugal", [False, True])
def test_weights_are_rounded_once_a_step(frugal: bool) -> None:
    model = small()
    model.checkpoint_activations = frugal
    machine = Machine(torch.device("cpu"), torch.bfloat16, Ranks())
    optimizer = Optimizer(model, Rates(0.02, 0.03, 0.01, 0.0, 0.01))
    stepper = Stepper(machine, model, optimizer, model.loss, LossScale())
    ids = torch.randint(0, 256, (6, 65), generator=torch.Generator().manual_seed(1))
    batch = Step([MicroBatch(part[:, :-1], part[:, 1:]) for part in ids.split(2)], 6 * 64, {})
    before = model.layers[0].mlp.up.by_rows.clone().float()
    for number in range(2):
        with Rounding() as rounding:
            stepper(batch, batch.valid, Schedule(10, warmup=0), number)
        # 128 x 128 are q, k, v and out of two layers; 128 rows of states are rounded in every pass.
        assert rounding.found[512, 128] == rounding.found[128, 512] - 6 * (1 + frugal) == 2
        assert rounding.found[256, 128] == 1  # the head
    after = model.layers[0].mlp.up.by_rows.float()
    assert not torch.equal(before, after)
    expected, _ = to_float8(model.layers[0].mlp.up.weight.detach(), ACTIVATION)
    assert not torch.equal(after, expected.float())  # of before the last update, until the next step begins
    model.round_weights()
    assert torch.equal(model.layers[0].mlp.up.by_rows.float(), expected.float())


def test_evaluation_is_not_in_float8() -> None:
    model, plain = small(), small(float8=False)
    ids = torch.randint(0, 256, (1, 65), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model.loss(ids[:, :-1], ids[:, 1:]), plain.loss(ids[:, :-1], ids[:, 1:]))
    assert not torch.equal(model.loss(ids[:, :-1], ids[:, 1:]), plain.loss(ids[:, :-1], ids[:, 1:]))


def test_the_whole_loss_in_one_graph() -> None:
    """As on a GPU: one graph, no new one after weights were rounded anew, and the gradients of the plain model."""
    plain, whole = small(), small()
    ids = torch.randint(0, 256, (2, 65), generator=torch.Generator().manual_seed(1))
    counter = CompileCounterWithBackend("aot_eager")
    loss = torch.compile(whole.loss, dynamic=False, fullgraph=True, backend=counter)
    for _ in range(2):
        for model, function in ((plain, plain.loss), (whole, loss)):
            model.zero_grad()
            function(ids[:, :-1], ids[:, 1:]).backward()
        for (name, p), q in zip(whole.named_parameters(), plain.parameters(), strict=True):
            assert p.grad is not None and q.grad is not None
            assert distance(p.grad, q.grad.double()) < 0.1 or q.grad.norm() < 1e-3, name
        for model in (plain, whole):
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(1.1)
            model.round_weights()
    assert counter.frame_count == 1


def test_elsewhere_it_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, this in (("cpu", "a CPU"), ("mps", "a Mac")):
        with pytest.raises(UserError, match=f"needs an NVIDIA GPU .* this is {this}\\."):
            require_float8(torch.device(device), 64)
    for capability in ((8, 9), (9, 0), (10, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        require_float8(torch.device("cuda"), 64)
    with pytest.raises(UserError, match="divisible by 16"):
        require_float8(torch.device("cuda"), 100)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(UserError, match="this is a GPU of compute capability 8.6\\."):
        require_float8(torch.device("cuda"), 64)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    with pytest.raises(UserError, match="this is an AMD GPU\\."):
        require_float8(torch.device("cuda"), 64)


def test_float8_has_a_peak_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Machine(torch.device("cuda", 0), torch.bfloat16, Ranks())
    monkeypatch.setattr(Machine, "name", "NVIDIA H100 80GB HBM3")
    assert (peak_flops(gpu), peak_flops(gpu, True)) == (989e12, 1979e12)
    assert all(card.fp8_peak >= 1.9 * card.peak for card in gpus.GPUS if card.capability >= 8.9)
    cpu = Machine(torch.device("cpu"), torch.float32, Ranks())
    assert peak_flops(cpu, True) == 2 * peak_flops(cpu)
