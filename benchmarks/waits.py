"""How often a training step waits for a GPU, counted without one: a step as a training takes it, with what comes before
it, on tensors of a device that has no memory and no kernels. torch knows their shapes and sees every copy between it
and the host.

    python -m benchmarks.waits            # one line for each case
    python -m benchmarks.waits --json waits.json

reads: numbers of the device that the host waits for while it gives the device work. blocking: copies that the host
waits for. ahead: copies it does not wait for. late: outcomes that it asks for a step later. It needs torch 2.13, whose
devices may be written in Python.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.result import BenchmarkResult

CARD = "card"
STEPS = 3  # the last one is counted: AdamW makes its state in the first


@dataclass(frozen=True)
class Case:
    """passes: micro-batches of a step. late: what `Stepper` chooses on a GPU."""

    name: str
    arch: str = "modern"
    world: int = 1
    passes: int = 1
    late: bool = True


CASES = (
    Case("one pass"),
    Case("four passes", passes=4),
    Case("classic", arch="classic"),
    Case("eight ranks, two passes", world=8, passes=2),
    Case("eight ranks, classic", arch="classic", world=8),
    Case("looking before the update", late=False),
)


def counted(case: Case) -> dict[str, int]:
    """Of a step. The first call gives this process a device named `card`, for good."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from nanochat.feed import MicroBatch, Step
    from nanochat.machine import Machine, Ranks
    from nanochat.model import ModelConfig
    from nanochat.optim import Optimizer, Schedule
    from nanochat.scale import Rates
    from nanochat.train import LossScale, Stepper, step
    from nanochat.train.memory import _ranks

    _add_card()
    counts: Counter[str] = Counter()
    config = ModelConfig(2, 32, 2, 2, 64, 16, case.arch, 100000.0)  # type: ignore[arg-type]
    machine = Machine(torch.device(CARD), torch.bfloat16, Ranks(world=case.world))
    real = step.wait_until_here

    def wait_until_here(device: torch.device) -> Callable[[], object]:
        return lambda: counts.update(late=1)

    step.wait_until_here = wait_until_here
    try:
        with _ranks(case.world), FakeTensorMode(), _counting(counts) as count:
            model = _on_card(config)
            optimizer = Optimizer(model, Rates(), torch.bfloat16)
            stepper = Stepper(machine, model, optimizer, model.loss, LossScale(), late=case.late)
            ids = torch.zeros((2, 16), dtype=torch.long)
            batch = Step([MicroBatch(ids, ids)] * case.passes, 32, {})
            told = None
            for number in range(STEPS):
                count.clear()
                valid = _agreed(machine, batch)
                taken = stepper.begin(batch, valid, Schedule.pretraining(100), number)
                if told:
                    told.read()
                told = taken
        return dict(counts)
    finally:
        step.wait_until_here = real


def _agreed(machine: Any, batch: Any) -> int:
    """What `Run.next` does before a step."""
    from nanochat.train import BaseConfig
    from nanochat.train.run import Run
    from nanochat.train.state import TrainState

    run = object.__new__(Run)
    run.machine, run.config, run.state = machine, BaseConfig(), TrainState("base", "")
    run.ready, run.last_save, run.save_due = batch, 0.0, False
    run.stop = SimpleNamespace(asked=0)  # type: ignore[assignment]
    run.saver = SimpleNamespace(busy=False, begun=0)  # type: ignore[assignment]
    run.watch = SimpleNamespace(at=lambda what: None)  # type: ignore[assignment]
    run.next()
    return int(batch.valid)


def _add_card() -> None:
    import torch
    from torch.utils.backend_registration import (
        _setup_privateuseone_for_python_backend as add,
    )

    if torch._C._get_privateuse1_backend_name() != CARD:
        add(CARD)


def _on_card(config: Any) -> Any:
    import torch
    from torch import nn

    from nanochat.model import GPT

    with torch.device("meta"):
        model = GPT(config, torch.bfloat16)
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, device=CARD))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, device=CARD)
    for block in model.layers:
        block.attn.backend = "blocked"  # of which a card's kernels copy no more between it and the host
    return model


@contextmanager
def _counting(counts: Counter[str]) -> Iterator[Counter[str]]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            for one in tree_iter((args, kwargs)):
                if getattr(one, "constant", None) is not None:
                    one.constant = None  # a fake tensor's value, which would be used instead of the tensor
            name = func.overloadpacket.__name__
            if name == "_local_scalar_dense":
                counts["reads"] += args[0].device.type == CARD
                return 0.0  # a loss of 0, and no gradient that overflows
            if name in ("nonzero", "masked_select", "_unique2", "unique_dim") and args[0].device.type == CARD:
                counts["reads"] += 1  # their result's size is a number
            out = func(*args, **kwargs)
            source = {"_to_copy": 0, "copy_": 1}.get(name)
            if source is not None and isinstance(out, torch.Tensor) and args[source].device.type != out.device.type:
                free = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
                counts["ahead" if free else "blocking"] += 1
            return out

    with Counting():
        yield counts


def _none_waits(found: dict[str, int]) -> bool:
    return not found.get("reads") and not found.get("blocking") and found["late"] == 1


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.waits", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    config = parser.parse_args(argv)
    result = BenchmarkResult("waits", {case.name: counted(case) for case in CASES}, {}, {}, {}, {})
    for name, found in result.ours.items():
        shown = ", ".join(f"{found.get(what, 0)} {what}" for what in ("reads", "blocking", "ahead", "late"))
        print(f"{name:28} {shown}", flush=True)
    result.checks = {case.name: _none_waits(result.ours[case.name]) for case in CASES if case.late}
    result.conclude(config.json)


if __name__ == "__main__":
    main()
