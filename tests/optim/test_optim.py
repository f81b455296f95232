"""Muon against its parts in float64, schedules, and the optimiser's saved state."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from nanochat import machine
from nanochat.model import GPT, ModelConfig
from nanochat.optim import Optimizer, Saved, Schedule, muon
from nanochat.optim.muon import muon_update, orthogonalize, prepare
from nanochat.optim.table import DECAY_EVERY, LR, Table
from nanochat.scale import Rates

MODERN = ModelConfig(3, 32, 2, 2, 50, 16, "modern", 100000.0, bigram=37)
CONFIG = ModelConfig(depth=2, width=32, heads=2, kv_heads=2, vocab_size=50, seq_len=16)


def t(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def wide(g: torch.Tensor) -> torch.Tensor:
    """As `prepare` leaves a gradient without momentum."""
    return prepare(g, torch.zeros_like(g), t(0.0), g.size(-2) > g.size(-1), g.dtype)


def test_singular_values_come_near_one() -> None:
    values = torch.logspace(math.log10(0.002), 0, 200, dtype=torch.float64)
    assert (orthogonalize(values.diag()[None])[0].diag() - 1).abs().max() < 0.15


def test_matrices_updated_in_turns_go_as_far_and_forget_no_gradient() -> None:
    """The same gradient in every step: every second step twice as far is every step."""
    models = [GPT(CONFIG, torch.float64).init_weights(0).double() for _ in range(2)]
    start = [p.detach().clone() for p in models[0].blocks.parameters()]
    for model, every in zip(models, (1, 2), strict=True):
        optimizer = Optimizer(model, Rates(weight_decay=0.0), torch.float64, muon_every=every)
        for i in range(20):
            for name, p in model.named_parameters():
                p.grad = torch.randn(p.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(name)))
            optimizer.step(Schedule(1000, warmup=0), i)
    for a, b, c in zip(*(m.blocks.parameters() for m in models), start, strict=True):
        moved, lazily = (float((x.detach() - c).norm()) for x in (a, b))
        assert lazily / moved == pytest.approx(1.0, abs=0.06)


def test_momentum_takes_in_every_gradient_whoever_has_the_turn() -> None:
    stacks = []
    for every in (1, 2):
        model = GPT(CONFIG, torch.float64).init_weights(0).double()
        optimizer = Optimizer(model, Rates(), torch.float64, muon_every=every)
        for i in range(5):
            g = torch.Generator().manual_seed(i)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, dtype=torch.float64, generator=g)
            optimizer.step(Schedule(1000, warmup=0), i)
        stacks.append(optimizer.stacks)
    for a, b in zip(*stacks, strict=True):
        assert torch.allclose(a.momentum, b.momentum, atol=1e-6)  # the rate is a float32


def test_orthogonalize_comes_near_the_polar_factor() -> None:
    g = torch.randn(3, 24, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = orthogonalize(wide(g))
    rows = g / g.norm(dim=-1, keepdim=True)  # what is orthogonalised has rows of one length
    u, _, vt = torch.linalg.svd(rows, full_matrices=False)
    polar = u @ vt
    cosine = (x * polar).sum((-2, -1)) / (x.norm(dim=(-2, -1)) * polar.norm(dim=(-2, -1)))
    assert (cosine > 0.99).all()


@pytest.mark.parametrize("shape", [(16, 48), (48, 16), (24, 24)])
def test_the_direction_is_that_of_torch_muon(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """With its coefficients, and a gradient whose rows have one length already. It computes in bfloat16."""
    monkeypatch.setattr(muon, "POLAR_EXPRESS", ((3.4445, -4.775, 2.0315),) * 5)
    grads = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    dim = -2 if shape[0] > shape[1] else -1
    p = torch.nn.Parameter(torch.zeros(shape))
    reference = torch.optim.Muon([p], lr=1.0, momentum=0.9, weight_decay=0.0, nesterov=True)
    momentum = torch.zeros(1, *shape)
    for grad in grads / grads.norm(dim=dim, keepdim=True):
        before = p.detach().clone()
        p.grad = grad.clone()
        reference.step()
        x = orthogonalize(prepare(grad[None], momentum, t(0.9), shape[0] > shape[1], torch.float32))[0]
        ours, theirs = (x.T if shape[0] > shape[1] else x), before - p.detach()
        assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.98


@pytest.mark.parametrize(("m", "k"), [(16, 64), (64, 16), (32, 32)])
def test_a_stack_is_updated_like_its_matrices_one_by_one(m: int, k: int) -> None:
    g = torch.Generator().manual_seed(0)

    def state() -> list[torch.Tensor]:
        g.manual_seed(0)
        grad, mom, params = (torch.randn(3, m, k, dtype=torch.float64, generator=g) for _ in range(3))
        second = torch.rand((3, m, 1) if m >= k else (3, 1, k), dtype=torch.float64, generator=g)
        return [grad, mom, second, params]

    together, alone = state(), state()
    muon_update(*together, t(0.1), t(0.9), t(0.2), torch.float64)
    for i in range(3):
        muon_update(*(x[i : i + 1] for x in alone), t(0.1), t(0.9), t(0.2), torch.float64)
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(("m", "k"), [(12, 20), (20, 12), (16, 16)])
def test_the_update_is_the_definition(m: int, k: int) -> None:
    """NorMuon's scaling and Muon+'s norm, written down matrix by matrix in float64."""
    g = torch.Generator().manual_seed(3)
    grad, mom, start = (torch.randn(m, k, dtype=torch.float64, generator=g) for _ in range(3))
    second = torch.rand((m, 1) if m >= k else (1, k), dtype=torch.float64, generator=g)
    got = [x[None].clone() for x in (grad, mom, second, start)]
    muon_update(*got, t(0.1), t(0.9), t(0.2), torch.float64)
    new_mom = 0.9 * mom + 0.1 * grad
    blend = 0.1 * grad + 0.9 * new_mom
    y = orthogonalize(wide(blend[None]))[0]
    y = y.T if m > k else y
    y = y * min(m, k) ** 0.5 / y.norm()
    mean = (y**2).mean(1 if m >= k else 0, keepdim=True)
    new_second = 0.9 * second + 0.1 * mean
    scaled = y / new_second.sqrt()
    scaled = scaled * y.norm() / scaled.norm()
    want = start - 0.1 * (scaled + 0.2 * start * (scaled * start >= 0))
    assert torch.allclose(got[1][0], new_mom) and torch.allclose(got[2][0], new_second)
    assert torch.allclose(got[3][0], want, atol=1e-12)


def test_decay_only_shrinks() -> None:
    g = torch.Generator().manual_seed(0)
    grad, start = (torch.randn(1, 32, 32, dtype=torch.float64, generator=g) for _ in range(2))
    free, decayed = start.clone(), start.clone()
    for p, decay in ((free, 0.0), (decayed, 0.3)):
        second = torch.zeros(1, 32, 1, dtype=torch.float64)
        muon_update(grad, torch.zeros_like(grad), second, p, t(0.01), t(0.9), t(decay), torch.float64)
    assert float((free - start).norm()) == pytest.approx(0.01 * 32**0.5, rel=1e-6)
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


@pytest.mark.parametrize("sparse", [False, True])
def test_the_optimizer_learns_and_its_saved_state_continues_bit_for_bit(sparse: bool) -> None:
    model, twin = GPT(CONFIG).init_weights(0), GPT(CONFIG)
    if sparse:
        model.use_sparse_tables(), twin.use_sparse_tables()
    optimizer = Optimizer(model, Rates())
    run(model, optimizer, range(4))
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
            {"params": [reference.embed.weight], "lr": rates.embedding, "betas": (0.8, 0.995), "weight_decay": 0.001},
            {"params": [reference.head.weight], "lr": rates.head, "betas": (0.8, 0.96), "weight_decay": 0.01},
        ],
        eps=1e-10,
    )
    schedule = Schedule(10, warmup=0, warmdown=0.1)
    for i in range(3):
        ids = torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(i))
        for m in (model, reference):
            m.loss(ids, ids.roll(-1, 1)).backward()
        with torch.no_grad():  # the matrices are Muon's: take them over, so that only AdamW is compared
            optimizer.step(schedule, i)
            adamw.step()
            for p, q in zip(model.blocks.parameters(), reference.blocks.parameters(), strict=True):
                q.copy_(p)
        reference.zero_grad()
    assert torch.allclose(model.embed.weight, reference.embed.weight, atol=1e-6)
    assert torch.allclose(model.head.weight, reference.head.weight, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
def test_every_parameter_is_updated_and_none_twice(sparse: bool) -> None:
    model = GPT(MODERN).init_weights(0)
    if sparse:
        model.use_sparse_tables()
    optimizer = Optimizer(model, Rates())
    stacked = [name for stack in optimizer.stacks for name in stack.names]
    assert sorted(stacked + optimizer.rest + [*optimizer.tables]) == sorted(n for n, _ in model.named_parameters())
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    run(model, optimizer, range(3))
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == []


def test_a_table_is_updated_as_a_dense_adam_with_one_second_moment_a_row() -> None:
    g = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(9, 4, generator=g, dtype=torch.float64))
    table = Table(weight, lr=0.1, beta2=0.9, decay=0.2)
    dense, square = weight.detach().clone(), torch.zeros(9, dtype=torch.float64)
    for i in range(DECAY_EVERY + 1):
        ids = torch.randint(0, 5, (3,), generator=g)  # the last rows never have a gradient
        upstream = torch.randn(3, 4, generator=g, dtype=torch.float64)
        (F.embedding(ids, weight, sparse=True) * upstream).sum().backward()
        grad = torch.zeros_like(dense).index_add_(0, ids, upstream)
        square = 0.9 * square + 0.1 * grad.square().mean(1)
        length = (square / (1 - 0.9 ** (i + 1))).sqrt().clamp_min(1e-10)
        if i == DECAY_EVERY - 1:
            dense *= 1 - DECAY_EVERY * 0.5 * 0.1 * 0.2
        dense -= LR * 0.1 * 0.5 * grad / length[:, None]
        with torch.no_grad():
            table.step(0.5, *table.take_gradient())
        assert weight.grad is None
        assert torch.allclose(weight, dense, atol=1e-6)


def test_a_table_takes_over_adamws_state_and_the_other_way_round() -> None:
    model = GPT(MODERN).init_weights(0)
    dense, rows = Optimizer(model, Rates()), Optimizer(GPT(MODERN).init_weights(0).use_sparse_tables(), Rates())
    run(model, dense, range(3))
    rows.load_state_dict(dense.state_dict())
    saved = rows.state_dict()
    name = "value_embeds.2.weight"
    assert torch.equal(saved[f"{name}.square"], dense.state_dict()[f"{name}.exp_avg_sq"].mean(1))
    assert saved[f"{name}.step"] == 3
    # Two steps later, in which row 5 had no gradient, AdamW would have let its second moment decay.
    rows.tables[name].steps = 5
    again = Optimizer(GPT(MODERN).init_weights(0), Rates())
    again.load_state_dict(rows.state_dict())
    found = again.state_dict()
    assert found[f"{name}.step"] == 5 and not found[f"{name}.exp_avg"].any()
    expected = (saved[f"{name}.square"] * 0.995**2)[:, None].expand(-1, found[f"{name}.exp_avg_sq"].size(1))
    assert torch.allclose(found[f"{name}.exp_avg_sq"], expected)
    run(model, again, range(2))


def saved_by_all(folder: str, when: str, rank: int, world: int, optimizer: Optimizer) -> Saved:
    """What all ranks write, read together."""
    files = [Path(folder, f"{when}-{world}-{n}.safetensors") for n in range(world)]
    save_file({k: v.clone() for k, v in optimizer.state_dict().items()}, files[rank])
    if world > 1:
        dist.barrier()
    return Saved(files)


def sharded(rank: int, world: int, port: int, folder: str, sparse: bool) -> None:
    """One of `world` ranks: four steps, each on its share of the same batch, a state saved and loaded in between.
    Gradients are sent while the backward pass goes on, or after it."""
    if world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
        torch.set_num_threads(1)
        machine.join("gloo")
    model = GPT(MODERN, torch.float64).init_weights(0).double()
    if sparse:
        model.use_sparse_tables()
    optimizer = Optimizer(model, Rates(), torch.float64)
    for i in range(4):
        ids = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(i))
        mine = ids[rank::world]
        if i % 2 and rank:  # the first rank sends all its gradients at the end, as one without a pass does
            optimizer.arm()
        (model.loss(mine, mine.roll(-1, 1), reduction="sum") / ids.numel()).backward()
        optimizer.step(Schedule(10, warmup=0), i)
        if i == 1:
            saved = saved_by_all(folder, "middle", rank, world, optimizer)
            optimizer = Optimizer(model, Rates(), torch.float64)
            optimizer.load_state_dict(saved)
    torch.save(model.state_dict(), f"{folder}/{world}-{rank}.pt")
    saved_by_all(folder, "end", rank, world, optimizer)
    if world > 1:
        dist.destroy_process_group()
        names = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
        assert not [name for name in names if "gloo" in name], "threads that abort the interpreter's end"


@pytest.mark.parametrize(
    ("world", "sparse"),
    [(2, True), *(pytest.param(*c, marks=pytest.mark.slow) for c in ((4, True), (2, False), (4, False)))],
)
def test_one_rank_equals_several(tmp_path: Path, free_port: int, world: int, sparse: bool) -> None:
    """Three of the stacks do not divide by two or four ranks, nor does a vocabulary of 50 by four."""
    sharded(0, 1, 0, str(tmp_path), sparse)
    torch.multiprocessing.spawn(sharded, (world, free_port, str(tmp_path), sparse), world)
    one, state = torch.load(tmp_path / "1-0.pt"), Saved([tmp_path / "end-1-0.safetensors"])
    for rank in range(world):
        other = torch.load(tmp_path / f"{world}-{rank}.pt")
        assert max(float((other[k] - one[k]).abs().max()) for k in one) < 1e-7
    files = [tmp_path / f"end-{world}-{rank}.safetensors" for rank in range(world)]
    joined = Saved(files)
    assert joined.keys() == state.keys()
    assert max(float((joined[k].view_as(state[k]) - state[k]).abs().max()) for k in state) < 1e-7
    assert sum(f.stat().st_size for f in files) < 1.3 * (tmp_path / "end-1-0.safetensors").stat().st_size


def test_a_missing_slice_is_an_error(tmp_path: Path) -> None:
    for n, (begin, end) in enumerate(((0, 3), (3, 5), (5, 9))):
        save_file({f"a.b[{begin}:{end}]": torch.arange(float(begin), end)}, tmp_path / f"{n}")
    assert torch.equal(Saved([tmp_path / n for n in "201"])["a.b"], torch.arange(9.0))
    with pytest.raises(KeyError, match=r"a\.b\[3:5\]"):
        Saved([tmp_path / n for n in "02"])["a.b"]


def test_a_rank_holds_its_part_of_the_state_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    optimizer = Optimizer(GPT(replace(CONFIG, depth=4)).init_weights(0), Rates())
    whole = sum(p.numel() for p in optimizer.named.values())
    held = sum(s.momentum.numel() for s in optimizer.stacks) + sum(p.numel() for p in optimizer.owned.values())
    assert held < 0.3 * whole
