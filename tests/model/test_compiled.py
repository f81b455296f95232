"""What a CPU trains with, compiled pieces and all, against the plain model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention

from nanochat.feed.loader import MicroBatch, Step
from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.model import gpt as gpt_module
from nanochat.model.attention import Backend
from nanochat.optim import Optimizer, Schedule
from nanochat.scale import Rates
from nanochat.train.step import LossScale, Stepper

CLASSIC = ModelConfig(2, 32, 2, 2, 50, 16)
MODERN = ModelConfig(3, 32, 2, 2, 50, 16, "modern", 100000.0, bigram=31)
RATES = Rates(0.002, 0.003, 0.001, 0.01, 0.001)


@pytest.fixture(autouse=True)
def small_matrices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nanochat.optim.optimizer.SMALL_MATRICES", 0)


def trained(config: ModelConfig, compiled: bool, frugal: bool, rows: tuple[int, ...]) -> tuple[GPT, list[float]]:
    """After three steps of passes of so many rows, in float32; and the losses."""
    machine = Machine(torch.device("cpu"), torch.float32, Ranks())
    model = GPT(config).init_weights(0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():  # projections that start at 0 would hide the gradients behind them
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.05)
    model.checkpoint_activations = frugal
    optimizer = Optimizer(model, RATES, torch.float32, compiled, 2)
    if compiled:
        model.compile_parts()
    stepper = Stepper(machine, model, optimizer, model.loss, LossScale())
    losses = []
    for i in range(3):
        ids = torch.randint(0, 50, (sum(rows), 17), generator=g)
        micro = [MicroBatch(part[:, :-1], part[:, 1:]) for part in ids.split(list(rows))]
        losses.append(stepper(Step(micro, sum(rows) * 16, {}), sum(rows) * 16, Schedule(10, warmup=0), i))
    return model, losses


@pytest.mark.parametrize("config", [pytest.param(CLASSIC, marks=pytest.mark.slow), MODERN], ids=["classic", "modern"])
def test_compiled_pieces_train_like_the_plain_model(config: ModelConfig) -> None:
    plain, expected = trained(config, False, False, (5,))
    for frugal in (False, True):
        model, losses = trained(config, True, frugal, (3, 2))
        assert losses == pytest.approx(expected, abs=1e-5)
        for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
            assert torch.allclose(a, b, atol=2e-4), (name, frugal)


@pytest.mark.parametrize(
    "config",
    [pytest.param(CLASSIC, marks=pytest.mark.slow), replace(MODERN, kv_heads=1, windows="SL")],
    ids=["classic", "modern"],
)
def test_one_code_serves_all_sizes(config: ModelConfig) -> None:
    """Also those that are equal by chance when it is compiled: here T is the width, and the rows are the layers."""
    model = GPT(replace(config, seq_len=64)).init_weights(0)
    made: list[str] = []

    def compiler(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        def backend(graph: torch.fx.GraphModule, given: object) -> Callable[..., Any]:
            made.append(function.__name__)
            return graph.forward

        compiled: Callable[..., Any] = torch.compile(function, backend=backend, **how)
        return compiled

    model.compile_parts(compiler)
    for rows, length in ((config.depth, 32), (config.depth, 32), (5, 16), (7, 64), (4, 33)):
        before = len(made)
        ids = torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(0))
        model.loss(ids, ids).backward()
        assert before == 0 or made[before:] == [], (rows, length)
    assert {"before", "after", "slopes", "softmax", "softmax_slopes"} == set(made)


@pytest.mark.parametrize("backend", ["blocked", pytest.param("flex", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "config",
    [pytest.param(CLASSIC, marks=pytest.mark.slow), replace(MODERN, kv_heads=1, seq_len=160, windows="SL")],
    ids=["classic", "modern"],
)
def test_the_whole_loss_compiles_as_on_a_gpu(
    config: ModelConfig, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one graph, with the gradients of the plain model (torch 2.11 lost them where a result changed in place)."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *args: None)  # which refuses to train on a CPU
    plain, whole = (trained(config, False, False, (1,))[0] for _ in range(2))
    for block in whole.layers:
        block.attn.backend = backend
    ids = torch.randint(0, 50, (2, config.seq_len + 1), generator=torch.Generator().manual_seed(0))
    found = torch.compile(whole.loss, dynamic=False, fullgraph=True, backend="aot_eager")(ids[:, :-1], ids[:, 1:])
    expected = plain.loss(ids[:, :-1], ids[:, 1:])
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    for model, loss in ((whole, found), (plain, expected)):
        model.zero_grad()
        loss.backward()
    for (name, p), q in zip(whole.named_parameters(), plain.named_parameters(), strict=True):
        assert p.grad is not None and q[1].grad is not None
        torch.testing.assert_close(p.grad, q[1].grad, atol=1e-5, rtol=1e-3, msg=name)
        assert p.grad.abs().max() > 0, name


def test_a_table_sums_gradients_where_they_lie() -> None:
    table, plain = (torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2))
    for ids in (torch.tensor([[0, 3, 3], [8, 0, 0]]), torch.tensor([[3, 1, 8]])):
        weight = torch.randn(*ids.shape, 4, generator=torch.Generator().manual_seed(1))
        (gpt_module._Lookup.apply(table, ids) * weight).sum().backward()
        (torch.nn.functional.embedding(ids, plain) * weight).sum().backward()
    assert table.grad is not None and plain.grad is not None
    assert torch.allclose(table.grad, plain.grad)
