"""What a GPU does differently, on a CPU: outcomes heard of a step later, a guard in the update, hosts' own exchange."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from nanochat import checkpoint, machine, scale
from nanochat.console import UserError
from nanochat.feed import MicroBatch, Step
from nanochat.machine import Machine, Ranks
from nanochat.metrics import read_metrics, training_file
from nanochat.model import GPT, ModelConfig
from nanochat.optim import Optimizer, Schedule
from nanochat.scale import Rates
from nanochat.train import BaseConfig, LossScale, Stepper, run, train_base
from nanochat.train.between import Garbage
from nanochat.train.step import NotFiniteError
from tests.train.test_ranks import VALUES, base, weights  # noqa: F401

CONFIG = ModelConfig(2, 32, 2, 2, 50, 16, "modern", 100000.0)
SCHEDULE = Schedule(10, warmup=0)


def make(late: bool, every: int = 1, spoil: Callable[[int], str] = lambda number: "", even: bool = False) -> Stepper:
    """spoil: "loss" or "gradient", by the number of the pass."""
    model = GPT(CONFIG).init_weights(0)
    passes = 0

    def loss(ids: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        nonlocal passes
        value, what = model.loss(ids, targets, reduction), spoil(passes)
        passes += 1
        if what == "gradient":
            value.register_hook(lambda grad: grad * float("inf"))
        return value * float("nan") if what == "loss" else value

    here = Machine(torch.device("cpu"), torch.float32, Ranks())
    return Stepper(here, model, Optimizer(model, Rates(), muon_every=every), loss, LossScale(), late=late, even=even)


def step_of(seed: int, rows: tuple[int, ...] = (4,)) -> Step:
    ids = torch.randint(0, 50, (sum(rows), 17), generator=torch.Generator().manual_seed(seed))
    return Step([MicroBatch(part[:, :-1], part[:, 1:]) for part in ids.split(list(rows))], sum(rows) * 16, {})


def state(stepper: Stepper) -> dict[str, torch.Tensor]:
    found = {**stepper.model.state_dict(), **stepper.optimizer.state_dict()}
    return {name: tensor.clone() for name, tensor in found.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("every", [1, 2])
def test_a_guarded_update_is_the_update(every: int) -> None:
    found = []
    for late in (False, True):
        stepper = make(late, every)
        outcomes = [stepper.begin(step_of(i), 64, SCHEDULE, i) for i in range(2)]
        losses = [outcome.read() for outcome in outcomes]  # a step later at the most
        found.append((losses, state(stepper)))
    assert found[0][0] == found[1][0]
    assert same(found[0][1], found[1][1])


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_what_is_not_finite_changes_nothing_nor_does_a_later_step(spoilt: str, every: int) -> None:
    stepper = make(True, every, lambda number: spoilt if number == 1 else "")
    good = stepper.begin(step_of(0), 64, SCHEDULE, 0)
    before = state(stepper)
    bad = stepper.begin(step_of(1), 64, SCHEDULE, 1)
    assert good.read() > 0 and same(before, state(stepper))
    stepper.begin(step_of(2), 64, SCHEDULE, 2)  # the host does not know yet
    with pytest.raises(NotFiniteError, match="loss became nan" if spoilt == "loss" else "gradient overflowed"):
        bad.read()
    assert same(before, state(stepper))
    assert not any(p.grad.any() for p in stepper.model.parameters() if p.grad is not None)


def test_passes_of_one_shape_learn_the_same() -> None:
    uneven, even = make(False), make(False, even=True)
    shapes = set()
    loss = even.loss

    def seen(ids: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        shapes.add(ids.shape)
        return loss(ids, targets, reduction=reduction)

    even.loss = seen
    for stepper in (uneven, even):
        stepper(step_of(0, (3, 3, 2)), 128, SCHEDULE, 0)
    assert shapes == {(3, 16)}
    for (name, a), b in zip(state(uneven).items(), state(even).values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)


@pytest.fixture
def late_run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Trains as a GPU does."""
    monkeypatch.setattr(scale, "few_rows", lambda tokens: False)

    def go(late: bool, **given: Any) -> Any:
        monkeypatch.setattr(run, "Stepper", partial(Stepper, late=late))
        return train_base(BaseConfig(**{**VALUES, "num_iterations": 6, "answers": False, **given}))

    return go


def test_a_late_training_is_the_same_training(base: Path, late_run: Callable[..., Any]) -> None:  # noqa: F811
    """Saved and evaluated in between; every step is told once, with its own loss."""
    told = []
    for late in (False, True):
        ended = late_run(late, model_tag=f"late-{late}", save_every=2, eval_every=3)
        rows = read_metrics(training_file("base", ended.tag))
        told.append([(r["kind"], r["step"], r.get("loss")) for r in rows if r["kind"] in ("step", "save", "eval")])
        told[-1].append(("end", ended.step, ended.loss))
    assert told[0] == told[1]
    assert [n for kind, n, _ in told[1] if kind == "step"] == [1, 2, 3, 4, 5, 6]
    a, b = (weights(f"late-{late}") for late in (False, True))
    assert same(a, b)


@pytest.mark.parametrize("save_every", [1, -1])
def test_a_late_divergence_names_its_step_and_is_not_saved(
    base: Path,  # noqa: F811
    late_run: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    save_every: int,
) -> None:
    real, passes = GPT.loss, 0

    def loss(self: GPT, *given: Any, **how: Any) -> torch.Tensor:
        nonlocal passes
        value = real(self, *given, **how)
        passes += 1
        return value * float("nan") if passes == 4 and torch.is_grad_enabled() else value

    monkeypatch.setattr(GPT, "loss", loss)
    with pytest.raises(UserError, match=r"the loss became nan in step 4, with the batch that ends at row \d+") as error:
        late_run(True, save_every=save_every)
    steps = checkpoint.steps("base", "x")
    assert max(steps, default=0) == (3 if save_every == 1 else 0)
    assert ("The last good checkpoint is" in str(error.value)) == (save_every == 1)


def exchange(rank: int, port: int) -> None:
    """The main group's sums do nothing here: only the hosts' own group can be right."""
    from torch.testing._internal.distributed import fake_pg  # noqa: F401

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    machine.join("fake")
    told = torch.tensor(rank + 1)
    dist.all_reduce(told)
    assert int(told) == rank + 1
    dist.all_reduce(told, group=machine.host_group())
    assert int(told) == 3


def test_hosts_tell_each_other_without_the_gpus_group(free_port: int) -> None:
    server = TCPStore("127.0.0.1", free_port, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(exchange, (free_port,), 2)
    del server


@pytest.mark.parametrize("frozen", [False, True])
def test_garbage_waits_until_it_is_asked_for(frozen: bool) -> None:
    """And what the caller had frozen stays so."""
    gc.freeze() if frozen else gc.unfreeze()
    with Garbage() as garbage:
        garbage.freeze()
        assert not gc.isenabled() and gc.get_freeze_count() > 0
        circle: list[Any] = []
        circle.append(circle)
        del circle
        assert gc.collect() > 0
        garbage.collect()
    assert gc.isenabled() and bool(gc.get_freeze_count()) == frozen


@pytest.mark.parametrize("theirs", ["", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocator_is_set_up_unless_the_environment_does(theirs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.sys, "platform", "linux")
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    if theirs:
        monkeypatch.setenv(theirs, "backend:native")
    machine.set_up_allocator()
    expected = {"": "expandable_segments:True", "PYTORCH_ALLOC_CONF": "backend:native"}.get(theirs)
    assert os.environ.get("PYTORCH_ALLOC_CONF") == expected
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")  # so that the test's own end takes it away
