"""Muon against its parts in float64, schedules, and the optimiser's saved state."""

from __future__ import annotations

import itertools

import pytest
import torch

from nanochat.model import GPT, ModelConfig
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.muon import muon_update, orthogonalize
from nanochat.scale import Rates

CONFIG = ModelConfig(depth=2, width=32, heads=2, kv_heads=2, vocab_size=50, seq_len=16)


def test_orthogonalize_comes_near_the_polar_factor() -> None:
    g = torch.randn(3, 24, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = orthogonalize(g, torch.float64)
    rows = g / g.norm(dim=-1, keepdim=True)  # what is orthogonalised has rows of one length
    u, _, vt = torch.linalg.svd(rows, full_matrices=False)
    polar = u @ vt
    cosine = (x * polar).sum((-2, -1)) / (x.norm(dim=(-2, -1)) * polar.norm(dim=(-2, -1)))
    assert (cosine > 0.99).all()
    assert torch.allclose(x.norm(dim=(-2, -1)), torch.full((3,), 24**0.5, dtype=torch.float64))


@pytest.mark.parametrize(("m", "k"), [(16, 64), (64, 16), (32, 32)])
def test_a_stack_is_updated_like_its_matrices_one_by_one(m: int, k: int) -> None:
    g = torch.Generator().manual_seed(0)

    def state() -> list[torch.Tensor]:
        g.manual_seed(0)
        grad, mom, params = (torch.randn(3, m, k, dtype=torch.float64, generator=g) for _ in range(3))
        second = torch.rand((3, m, 1) if m >= k else (3, 1, k), dtype=torch.float64, generator=g)
        return [grad, mom, second, params]

    together, alone = state(), state()
    muon_update(*together, 0.1, 0.9, 0.2, m > k, torch.float64)
    for i in range(3):
        muon_update(*(t[i : i + 1] for t in alone), 0.1, 0.9, 0.2, m > k, torch.float64)
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_the_update_has_the_size_of_an_orthogonal_matrix_and_decay_only_shrinks() -> None:
    g = torch.Generator().manual_seed(0)
    grad = torch.randn(1, 32, 32, dtype=torch.float64, generator=g)
    zero = torch.zeros_like(grad)
    params = torch.zeros_like(grad)
    muon_update(
        grad,
        zero.clone(),
        torch.zeros(1, 32, 1, dtype=torch.float64),
        params,
        0.5,
        0.9,
        0.0,
        False,
        torch.float64,
    )
    assert float(params.norm()) == pytest.approx(0.5 * 32**0.5, rel=1e-6)
    start = torch.randn(1, 32, 32, dtype=torch.float64, generator=g)
    free, decayed = start.clone(), start.clone()
    for p, decay in ((free, 0.0), (decayed, 0.3)):
        muon_update(
            grad,
            zero.clone(),
            torch.zeros(1, 32, 1, dtype=torch.float64),
            p,
            0.01,
            0.9,
            decay,
            False,
            torch.float64,
        )
    extra = decayed - free
    assert (extra * start <= 0).all()
    assert extra.abs().sum() > 0


def test_schedule_rises_holds_and_falls() -> None:
    s = Schedule(1000, warmup=40, warmdown=0.65, final=0.05)
    rates = [s.rate(i) for i in range(1000)]
    assert rates[0] == pytest.approx(1 / 40)
    assert max(rates) == 1.0 and rates[100] == rates[340] == 1.0
    assert rates[-1] == pytest.approx(0.05, abs=0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[350:]))
    assert s.momentum(0) == pytest.approx(0.85) and s.momentum(999) == pytest.approx(0.90, abs=0.001)
    assert s.decay(0) == 1.0 and s.decay(1000) == pytest.approx(0)


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_very_short_runs_have_sane_schedules(steps: int) -> None:
    for s in (Schedule.pretraining(steps), Schedule.finetuning(steps)):
        assert all(0 <= s.rate(i) <= 1 and 0.8 < s.momentum(i) < 0.98 and 0 <= s.decay(i) <= 1 for i in range(steps))


def run(model: GPT, optimizer: Optimizer, steps: range) -> None:
    for i in steps:
        ids = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(i))
        model.loss(ids, ids.roll(-1, 1)).backward()
        optimizer.step(Schedule.pretraining(20), i)


def test_the_optimizer_learns_and_its_saved_state_continues_bit_for_bit() -> None:
    model = GPT(CONFIG).init_weights(0)
    optimizer = Optimizer(model, Rates())
    run(model, optimizer, range(4))
    twin = GPT(CONFIG)
    twin.load_state_dict(model.state_dict())
    other = Optimizer(twin, Rates())
    other.load_state_dict({k: v.clone() for k, v in optimizer.state_dict().items()})
    run(model, optimizer, range(4, 8))
    run(twin, other, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    start = GPT(CONFIG).init_weights(0)
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))


def test_embedding_and_head_follow_torch_adamw() -> None:
    model = GPT(CONFIG).init_weights(0)
    reference = GPT(CONFIG).init_weights(0)
    rates = Rates()
    optimizer = Optimizer(model, rates)
    adamw = torch.optim.AdamW(
        [
            {"params": [reference.embed.weight], "lr": rates.embedding, "betas": (0.8, 0.995)},
            {"params": [reference.head.weight], "lr": rates.head, "betas": (0.8, 0.96)},
        ],
        weight_decay=0.0,
        eps=1e-10,
    )
    ids = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(0))
    for m in (model, reference):
        m.loss(ids, ids.roll(-1, 1)).backward()
    optimizer.step(Schedule(10, warmup=0, warmdown=0.1), 0)
    adamw.step()
    assert torch.allclose(model.embed.weight, reference.embed.weight, atol=1e-6)
    assert torch.allclose(model.head.weight, reference.head.weight, atol=1e-6)
