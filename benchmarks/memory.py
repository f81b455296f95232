"""Predicted memory of training steps against what real ones on this CPU hold.

    python -m benchmarks.memory --json memory.json

Each case is a process of its own. counted: what model, gradients and optimiser hold, and the most bytes that torch's
allocator gives out on top of it in a step, as its profiler records them. process: by how much the process grew at most
from before the model was made; it also has the compiler, threads and libraries, and freed memory that was not given
back.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from benchmarks.result import BenchmarkResult
from nanochat import scale
from nanochat.console import say
from nanochat.machine import Machine, keep_freed_memory, ranks
from nanochat.scale import Arch

if TYPE_CHECKING:
    import torch

TOLERANCE = 0.10
PASSES = 2


@dataclass(frozen=True)
class Case:
    """passes: of a step."""

    arch: Arch = "modern"
    dtype: str = "bfloat16"
    depth: int = 4
    rows: int = 4
    seq_len: int = 512
    vocab: int = 4096
    compiled: bool = False
    checkpoint_activations: bool = False
    passes: int = PASSES
    world: int = 1

    @property
    def name(self) -> str:
        extras = ("compiled",) * self.compiled + ("checkpoints",) * self.checkpoint_activations
        return " ".join((self.arch, self.dtype, f"d{self.depth}", f"{self.rows} x {self.seq_len}", *extras))

    @property
    def batch_tokens(self) -> int:
        return self.passes * self.rows * self.seq_len * self.world


CASES = (
    *(
        Case(arch, dtype, compiled=compiled)
        for arch, dtype, compiled in itertools.product(get_args(Arch), ("bfloat16", "float32"), (False, True))
    ),
    *(replace(case, checkpoint_activations=True) for case in (Case(), Case("classic", "float32", compiled=True))),
    *(Case(depth=8, rows=2, compiled=compiled) for compiled in (False, True)),
    *(Case(rows=16, compiled=compiled) for compiled in (False, True)),
    Case(depth=2, rows=1, seq_len=2048, passes=9, compiled=True),
    *(Case(arch, depth=12, rows=1, seq_len=256, compiled=True) for arch in get_args(Arch)),
)


def predicted(case: Case) -> dict[str, int]:
    """`Memory`'s parts, and the peak."""
    from nanochat.train.memory import predict

    memory = predict(
        _config(case),
        case.rows,
        case.world,
        dtype=case.dtype,
        device="cpu",
        batch_tokens=case.batch_tokens,
        compiled=case.compiled,
        checkpoint_activations=case.checkpoint_activations,
    )
    return {**asdict(memory), "peak": memory.peak}


def _config(case: Case) -> Any:
    from nanochat.model import ModelConfig

    return ModelConfig.from_depth(case.depth, case.vocab, case.seq_len, case.arch)


def measured(case: Case) -> dict[str, int]:
    """always: bytes that model, gradients and optimiser hold. peak: the most in a step. process: see above.

    Of one rank of several, when this process is one."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from nanochat.feed import MicroBatch, Step
    from nanochat.model import GPT
    from nanochat.optim import Schedule
    from nanochat.train import BaseConfig, LossScale, Stepper
    from nanochat.train.equip import make_loss, make_optimizer
    from nanochat.train.state import TrainState

    keep_freed_memory()
    machine = Machine(torch.device("cpu"), getattr(torch, case.dtype), ranks())
    config = _config(case)
    before = _status("VmRSS")
    model = GPT(config, machine.dtype).init_weights(0)
    rates = scale.rates(config.shape, case.batch_tokens, 10**6, 12.0)
    plan = TrainState("base", "", batch_tokens=case.batch_tokens, rates=asdict(rates))
    settings = BaseConfig(compile="on" if case.compiled else "off", checkpoint_activations=case.checkpoint_activations)
    optimizer = make_optimizer(model, plan, settings, machine)
    loss = make_loss(model, settings.compile, machine)
    stepper = Stepper(machine, model, optimizer, loss, LossScale())
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, case.vocab, (case.passes * case.rows, case.seq_len), generator=g)
    batch = Step([MicroBatch(x, x) for x in ids.split(case.rows)], ids.numel(), {})
    schedule = Schedule.pretraining(1000)
    turns = optimizer.muon_every  # matrices may take turns
    for number in range(turns):  # compile, and make all state
        stepper(batch, batch.valid, schedule, number)
    process = _status("VmHWM") - before
    held = _held(model, optimizer)
    most = 0
    for number in range(turns, 2 * turns):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            stepper(batch, batch.valid, schedule, number)
        most = max(most, _most(record))
    return {"always": held, "peak": held + most, "process": process}


def _held(model: torch.nn.Module, optimizer: Any) -> int:
    """Bytes of the storages of all weights, buffers, gradients and state."""
    held = [*model.parameters(), *model.buffers(), *optimizer.state_dict().values()]
    held += [p.grad for p in model.parameters() if p.grad is not None] + optimizer.room
    return sum({s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in held)}.values())


def _most(record: Any) -> int:
    """The largest sum of the profiler's allocations so far, freed ones taken off."""
    now = most = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def _status(name: str) -> int:
    """Bytes of a line of the process's status; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    config = parser.parse_args(argv)
    if config.case:
        case = Case(**json.loads(config.case))
        print(json.dumps({"measured": measured(case), "predicted": predicted(case)}))
        return
    result = BenchmarkResult("memory", {}, {}, {}, {})
    for case in CASES:
        if config.only not in case.name:
            continue
        command = [sys.executable, "-m", "benchmarks.memory", "--case", json.dumps(asdict(case))]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        row = json.loads(done.stdout.splitlines()[-1])
        ratio = row["predicted"]["peak"] / row["measured"]["peak"]
        result.ours[case.name] = {**row, "ratio": ratio}
        result.checks[case.name] = abs(ratio - 1) <= TOLERANCE
        say(
            f"{case.name:45} predicted {row['predicted']['peak'] / 1e6:8.1f} MB, counted "
            f"{row['measured']['peak'] / 1e6:8.1f} MB ({ratio:.3f}), process {row['measured']['process'] / 1e6:8.1f} MB"
        )
        result.write(config.json)
    result.conclude(config.json)


if __name__ == "__main__":
    main()
