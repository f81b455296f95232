"""Every supervised token weighs the same, however they are spread over micro-batches and ranks. None is an error."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanochat import machine
from nanochat.console import UserError
from nanochat.feed.loader import Loader, MicroBatch, Step
from nanochat.feed.packing import Example
from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.optim import Optimizer, Schedule
from nanochat.scale import Rates
from nanochat.train.chat import conversation_loss
from nanochat.train.step import LossScale, Stepper

VOCAB, LONGEST = 50, 16
CONFIG = ModelConfig(2, 32, 2, 2, VOCAB, LONGEST, "modern", 100000.0)
SCHEDULE = Schedule(10, warmup=0)
RATES = Rates(0.002, 0.003, 0.001, 0.28, 0.001)


@dataclass
class Talk:
    """Conversations of 2 to `longest` tokens. supervised: how likely a row has answers; others carry no loss."""

    supervised: float
    longest: int
    seed: int

    def __len__(self) -> int:
        return 40

    def get(self, indices: list[int]) -> list[Example]:
        found = []
        for i in indices:
            rng = np.random.default_rng((self.seed, i))
            ids = rng.integers(1, VOCAB, rng.integers(2, self.longest + 1))
            mask = rng.random(len(ids)) < 0.5
            ids[0], mask[0], mask[1] = 0, False, True
            found.append(Example(ids, mask))
        return found


class Recorder:
    """Stands for an optimiser: keeps the gradients that a step ends with."""

    def __init__(self, model: GPT) -> None:
        self.model = model
        self.grads: list[torch.Tensor] = []

    def arm(self) -> None:
        pass

    def reduce(self) -> None:
        pass

    def step(self, schedule: Schedule, number: int) -> None:
        parameters = list(self.model.parameters())
        self.grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        self.clear()

    def clear(self) -> None:
        self.model.zero_grad()


def make(world: int = 1, rank: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Stepper, Recorder]:
    model = GPT(CONFIG, dtype).init_weights(0)
    model = model.double() if dtype == torch.float64 else model
    recorder: Any = Recorder(model)
    machine = Machine(torch.device("cpu"), dtype, Ranks(rank, rank, world))
    return Stepper(machine, model, recorder, model.loss, LossScale()), recorder


def shares(source: Talk, seq_len: int, rows: int, micro: int, world: int) -> list[Step]:
    """Each rank's part of the first step. The loader gives no row without an answer, so some lose theirs here."""
    made = []
    rng = np.random.default_rng(source.seed)
    for rank in range(world):
        steps = iter(Loader(source, seq_len, rows * world, micro, Ranks(rank, rank, world), False))
        step = next(steps)
        steps.close()  # type: ignore[attr-defined]
        assert all((batch.targets >= 0).any(1).all() for batch in step.micro)
        micros = []
        for batch in step.micro:
            silent = torch.from_numpy(rng.random(len(batch.ids)) >= source.supervised)
            micros.append(MicroBatch(batch.ids, batch.targets.masked_fill(silent[:, None], -1)))
        made.append(Step(micros, sum(int((batch.targets >= 0).sum()) for batch in micros), step.state))
    return made


def mean(model: GPT, steps: list[Step]) -> tuple[float, list[torch.Tensor]]:
    """The definition: the losses of all supervised tokens, added and divided by their number, and its gradients."""
    batches = [batch for step in steps for batch in step.micro]
    total = sum(model.loss(batch.ids, batch.targets, reduction="none").sum() for batch in batches)
    loss = total / max(1, sum(int((batch.targets >= 0).sum()) for batch in batches))
    grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    zeros = [torch.zeros_like(p) for p in model.parameters()]
    return float(loss.detach()), [zero if grad is None else grad for grad, zero in zip(grads, zeros, strict=True)]


def furthest(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    supervised=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    longest=st.integers(2, 30),
    seq_len=st.integers(1, LONGEST),
    rows=st.integers(1, 8),
    micro=st.integers(1, 8),
    world=st.sampled_from([1, 2]),
    seed=st.integers(0, 1000),
)
@example(supervised=0.0, longest=9, seq_len=8, rows=8, micro=1, world=2, seed=0)  # nothing to learn anywhere
@example(supervised=0.1, longest=9, seq_len=8, rows=8, micro=1, world=2, seed=0)  # in most micro-batches nothing
def test_any_micro_batches_give_a_finite_loss_and_the_mean_over_all_tokens(
    supervised: float, longest: int, seq_len: int, rows: int, micro: int, world: int, seed: int
) -> None:
    steps = shares(Talk(supervised, longest, seed), seq_len, rows, micro, world)
    valid = sum(step.valid for step in steps)
    stepper, recorder = make()
    if not valid:
        with pytest.raises(UserError, match="this step has no token to learn from"):
            stepper(steps[0], valid, SCHEDULE, 0)
        return
    losses, grads = [], []
    for step in steps:  # the ranks one after the other: their losses and gradients are what all_reduce adds up
        losses.append(stepper(step, valid, SCHEDULE, 0))
        grads.append(recorder.grads)
    assert all(map(math.isfinite, losses))
    loss, expected = mean(stepper.model, steps)
    assert sum(losses) == pytest.approx(loss, rel=1e-5, abs=1e-6)
    assert furthest([sum(parts[1:], parts[0]) for parts in zip(*grads, strict=True)], expected) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_without_any_supervised_token_is_refused_and_changes_nothing(dtype: torch.dtype) -> None:
    stepper, _ = make(dtype=dtype)
    stepper.optimizer = Optimizer(stepper.model, RATES)
    before = {k: v.clone() for k, v in stepper.model.state_dict().items()}
    [empty] = shares(Talk(0.0, 9, 0), 8, 4, 2, 1)
    [some] = shares(Talk(0.5, 9, 0), 8, 4, 2, 1)
    assert empty.valid == 0 < some.valid
    with pytest.raises(UserError, match="this step has no token to learn from"):
        stepper(empty, 0, SCHEDULE, 0)
    assert all(torch.equal(v, before[k]) for k, v in stepper.model.state_dict().items())
    assert stepper(some, some.valid, SCHEDULE, 0) > 0
    assert all(p.isfinite().all() for p in stepper.model.parameters())


def test_the_loss_on_conversations_is_added_up_where_there_is_float64() -> None:
    """Apple's GPUs have none."""
    source: Any = Talk(1.0, 9, 0)
    cpu, _ = make()
    model: Any = SimpleNamespace(
        loss=lambda *given, reduction: SimpleNamespace(cpu=lambda: cpu.model.loss(*given, reduction=reduction))
    )
    found = [conversation_loss(m, source, 8, 4, 2, cpu.machine) for m in (cpu.model, model)]
    assert found[0] == found[1] and found[0][0] > 0 < found[0][1]


CASES = [
    (supervised, seq_len, rows, micro, seed)
    for seed, (supervised, seq_len, rows, micro) in enumerate(
        [
            (0.0, 8, 1, 1), (0.1, 8, 1, 1), (0.1, 5, 8, 3), (0.5, 16, 4, 2), (1.0, 3, 7, 8), (0.1, 16, 2, 1),
            (0.5, 1, 5, 2), (0.2, 8, 1, 1), (0.3, 8, 1, 1), (0.4, 8, 1, 1),
        ]
    )
]  # fmt: skip


def one_of_two(rank: int, port: int) -> None:
    """A rank takes its part of each case's step with the other one; compares with the definition on both parts."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    machine.join("gloo")
    stepper, recorder = make(2, rank)
    alone = 0
    for supervised, seq_len, rows, micro, seed in CASES:
        steps = shares(Talk(supervised, 9, seed), seq_len, rows, micro, 2)
        counts = [step.valid for step in steps]
        alone += 0 in counts and any(counts)
        if not any(counts):
            continue
        loss = stepper(steps[rank], sum(counts), SCHEDULE, 0)
        for grad in recorder.grads:
            dist.all_reduce(grad)
        expected, grads = mean(stepper.model, steps)
        assert math.isclose(loss, expected, rel_tol=1e-5, abs_tol=1e-6), (seed, loss, expected)
        assert furthest(recorder.grads, grads) < 1e-9, seed
    assert alone, "in no case had one rank tokens to learn and the other none"


def test_two_ranks_one_of_them_without_a_supervised_token(free_port: int) -> None:
    torch.multiprocessing.spawn(one_of_two, (free_port,), 2)
