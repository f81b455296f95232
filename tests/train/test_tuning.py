"""Sizes that suit the processor: chosen by trying, kept by the run, and of no consequence but for speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.native import LEVELS, has_native
from nanochat.optim import Optimizer
from nanochat.scale import Rates
from nanochat.train import BaseConfig, suited, tuning
from nanochat.train.state import TrainState
from nanochat.train.tuning import Sizes, fastest, fastest_sizes, usual_sizes

CONFIG = ModelConfig(2, 32, 2, 2, 50, 16, "modern", 100000.0, bigram=31)
RATES = Rates(0.002, 0.003, 0.001, 0.01, 0.001)
CPU = Machine(torch.device("cpu"), torch.float32, Ranks())


def made() -> tuple[GPT, Optimizer]:
    model = GPT(CONFIG).init_weights(0).use_sparse_tables()
    with torch.no_grad():  # projections that start at 0 would hide the gradients behind them
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    return model, Optimizer(model, RATES)


@pytest.mark.parametrize("times", [{1: 5.0, 2: 4.0, 4: 4.5}, {1: 5.0, 2: 4.9, 4: 6.0}, {1: 5.0}])
def test_only_a_clear_gain_moves_it_from_the_usual(times: dict[int, float], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock[0])
    runs = []

    def run(size: int) -> None:
        runs.append(size)
        clock[0] += times[size] + (100 if runs.count(size) == 1 else 0)  # the first one compiles

    assert fastest(list(times), run) == (2 if times.get(2) == 4.0 else 1)
    assert len(runs) == (0 if len(times) == 1 else len(times) * (1 + tuning.TRIES))


@pytest.fixture
def torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without native code."""
    monkeypatch.setenv("NANOCHAT_CPU", "torch")


@pytest.mark.parametrize("fast", [(), tuple(LEVELS)])
@pytest.mark.parametrize("code", ["", "torch"])
def test_what_is_tried_and_nothing_is_left_behind(
    code: str, fast: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of all sizes is taken, and each was run. fast: levels whose native code is usual."""
    monkeypatch.setenv("NANOCHAT_CPU", code)
    monkeypatch.setattr(tuning, "FAST", fast)
    monkeypatch.setattr(tuning, "chunk_rows", lambda vocab, device: 8)
    monkeypatch.setattr(tuning, "BLOCK", 16)
    tried: list[list[int]] = []

    def last(sizes: list[int], run: Callable[[int], object], *more: object, **how: object) -> int:
        tried.append(list(sizes))
        for size in sizes:
            run(size)
        return sizes[-1]

    monkeypatch.setattr(tuning, "fastest", last)
    model, optimizer = made()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = fastest_sizes(model, model.loss, optimizer.clear, usual_sizes(model, 2), 4)
    if not has_native(torch.float32, CPU.device):
        assert tried == [[8, 16, 32], [16, 8], [1], [2, 4]]
    elif fast:
        assert tried == [[0, 8, 16, 32], [0, 16, 8], [0, 1], [2, 4]]
    else:
        assert tried == [[8, 0, 16, 32], [16, 0, 8], [1, 0], [2, 4]]
    assert found == Sizes(4, 32, 8, tried[2][-1])
    assert torch.equal(torch.rand(3), expected), "a run's random numbers are its own"
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None or not p.grad.any(), name
    assert (model.loss_chunk, model.native_loss, {layer.attn.block for layer in model.layers}) == (32, False, {8})
    assert model.layers[0].mlp.up.native == (has_native(torch.float32, CPU.device) and not fast)
    Sizes(4, 0, 0, 0).apply(model)
    assert model.layers[0].mlp.up.native == has_native(torch.float32, CPU.device)
    assert (model.native_loss, {layer.attn.block for layer in model.layers}) == (True, {0})


@pytest.mark.usefixtures("torchs")
def test_nothing_is_tried_where_all_is_small() -> None:
    model, optimizer = made()
    usual = replace(usual_sizes(model, 4), block=16)
    assert fastest_sizes(model, model.loss, optimizer.clear, replace(usual, block=256), 4) == replace(usual, block=256)
    assert usual.chunk >= 4 * CONFIG.seq_len


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_sizes_change_only_the_rounding(compiled: bool) -> None:
    found = []
    ids = torch.randint(0, 50, (4, 17), generator=torch.Generator().manual_seed(0))
    for sizes in (Sizes(4, 1000, 256, 1), Sizes(4, 8, 8, 1), Sizes(4, 24, 4, 0), Sizes(4, 0, 0, 0)):
        model, _ = made()
        if compiled:
            model.compile_parts()
        sizes.apply(model)
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        grads = [p.grad.to_dense() if p.grad.is_sparse else p.grad for p in model.parameters() if p.grad is not None]
        found.append((loss.detach(), grads))
    for loss, grads in found[1:]:
        torch.testing.assert_close(loss, found[0][0], atol=1e-6, rtol=1e-6)
        for a, b in zip(grads, found[0][1], strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("plan", "config", "expected"),
    [
        (TrainState("base", "a", steps=1000), BaseConfig(), 2),
        (TrainState("base", "a", steps=3), BaseConfig(), 0),  # too short
        (TrainState("base", "a", steps=1000), None, 0),
        (TrainState("base", "a", steps=1000), BaseConfig(deterministic=True), 0),
        (TrainState("base", "a", steps=1000, step=3), BaseConfig(), 0),  # begun by an earlier version
        (TrainState("base", "a", steps=1000, step=3, sizes={"rows": 2, "chunk": 8, "block": 8}), BaseConfig(), 2),
        (TrainState("base", "a", steps=1000, step=3, sizes={"rows": 0, "tomorrow's": 8}), BaseConfig(), 1),
        (TrainState("base", "a", steps=1000, step=3, sizes={"rows": 10**400, "chunk": 10**400}), BaseConfig(), 64),
    ],
)
def test_when_it_is_tried(
    plan: TrainState, config: BaseConfig | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """config: None: with two ranks. expected: rows in a pass; 0: the usual."""
    machine = CPU if config else replace(CPU, ranks=Ranks(world=2))
    config = config or BaseConfig()
    asked = []

    def answer(model: GPT, loss: object, clear: object, sizes: Sizes, most: int) -> Sizes:
        asked.append((sizes.rows, most))
        return Sizes(2, 8, 8, 1)

    monkeypatch.setattr(tuning, "fastest_sizes", answer)
    model, optimizer = made()
    usual = suited(replace(plan, step=1, sizes={}), model, model.loss, optimizer, 64, BaseConfig(), machine)[1]
    after, rows = suited(plan, model, model.loss, optimizer, 64, config, machine)
    sum(len(part) for part in torch.arange(9).split(model.loss_chunk or 1))  # a size that torch can take
    assert rows == (expected or usual)
    assert bool(asked) == (plan.step == 0 and expected > 0)
    if asked:
        assert after.sizes == {"rows": 2, "chunk": 8, "block": 8, "products": 1} and after.seconds > 0
    elif plan.step:
        assert after == plan
        assert plan.sizes or not model.native_loss, "a run that was begun by an earlier version goes on as it was"
    else:
        noted = usual_sizes(model, 1)
        assert after == replace(plan, sizes={"chunk": noted.chunk, "block": noted.block, "products": noted.products})
        assert model.native_loss == (noted.chunk == 0)


def test_given_rows_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(tuning, "fastest_sizes", lambda *given: asked.append(given[3:]) or given[3])
    model, optimizer = made()
    plan = TrainState("base", "a", steps=1000)
    after, rows = suited(plan, model, model.loss, optimizer, 64, BaseConfig(device_batch_size=4), CPU)
    assert (rows, after.sizes.keys()) == (4, {"chunk", "block", "products"})
    assert asked == [(usual_sizes(model, 4), 4)]
    kept = TrainState("base", "a", steps=1000, step=9, sizes={"rows": 32, "chunk": 8, "block": 8})
    assert suited(kept, model, model.loss, optimizer, 64, BaseConfig(device_batch_size=4), CPU)[1] == 4
    assert model.loss_chunk == 8


@pytest.mark.parametrize("error", [RuntimeError("can't allocate memory: 9 bytes"), torch.OutOfMemoryError("!")])
def test_memory_that_runs_out_leaves_the_usual_sizes(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    model, optimizer = made()
    assert fastest_sizes(model, raising(error), optimizer.clear, Sizes(2, 8, 16, 1), 4) == Sizes(2, 8, 16, 1)
    assert "memory ran out" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="another"):
        fastest_sizes(model, raising(RuntimeError("another")), optimizer.clear, Sizes(2, 8, 16, 1), 4)


def raising(error: Exception) -> Callable[..., torch.Tensor]:
    def loss(*given: object, **how: object) -> torch.Tensor:
        raise error

    return loss
