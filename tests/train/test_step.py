"""One step: pieces that fit into memory, float16's loss scale, and the guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nanochat.console import UserError
from nanochat.feed.loader import MicroBatch, Step
from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.optim import Optimizer, Schedule
from nanochat.scale import Rates, shape
from nanochat.train.fitting import choose_rows, forward_tokens
from nanochat.train.step import LossScale, NotFiniteError, Stepper

CONFIG = ModelConfig(2, 32, 2, 2, 50, 16, "modern", 100000.0)
# Small: AdamW makes a step of a gradient's sign, whatever its size.
RATES = Rates(0.002, 0.003, 0.001, 0.28, 0.001)


def make(dtype: torch.dtype = torch.float32, wrap: Callable[[Any], Any] = lambda loss: loss) -> Stepper:
    model = GPT(CONFIG, dtype).init_weights(0)
    model = model.double() if dtype == torch.float64 else model
    machine = Machine(torch.device("cpu"), dtype, Ranks())
    return Stepper(machine, model, Optimizer(model, RATES), wrap(model.loss), LossScale())


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def step_of(seed: int, rows: int = 8) -> Step:
    ids = torch.randint(0, 50, (rows, 17), generator=torch.Generator().manual_seed(seed))
    return Step([MicroBatch(ids[:, :-1], ids[:, 1:])], rows * 16, {"row": rows * (seed + 1)})


def run(stepper: Stepper, steps: int) -> list[float]:
    return [stepper(step_of(i), 128, Schedule(10, warmup=0), i) for i in range(steps)]


def state(stepper: Stepper) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in stepper.model.state_dict().items()}


def test_out_of_memory_halves_the_pieces_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Memory is out in the second pass, too, when the first has left gradients; as a CPU says it and as a GPU does."""
    passes = 0

    def small_memory(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def limited(ids: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
            nonlocal passes
            passes += 1
            if len(ids) == 8:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            if len(ids) == 4 and passes == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return loss(ids, targets, reduction=reduction)

        return limited

    whole, pieces = make(torch.float64), make(torch.float64, small_memory)
    assert run(whole, 3) == pytest.approx(run(pieces, 3), abs=1e-5)
    assert pieces.rows == 2
    assert furthest(state(whole), state(pieces)) < 1e-9
    assert capsys.readouterr().out.count("Out of memory") == 2  # 8 -> 4 -> 2, once


def test_one_sequence_that_does_not_fit_is_named() -> None:
    def no_memory(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def fail(*args: Any, **kwargs: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return fail

    with pytest.raises(UserError, match="one sequence of 16 tokens does not fit.*--checkpoint_activations"):
        run(make(wrap=no_memory), 1)


def test_float16_trains_like_float32_and_survives_an_overflow() -> None:
    half, single = make(torch.float16), make()
    assert half.scale
    half.scale.value = 2.0**30
    before = state(half)
    losses = [half(step_of(0), 128, Schedule(10, warmup=0), 0)]
    assert half.scale.value == 2.0**29
    assert furthest(before, state(half)) == 0.0  # that step was left out
    while half.scale.value > 2.0**12:  # until it fits
        losses.append(half(step_of(0), 128, Schedule(10, warmup=0), 0))
        if furthest(before, state(half)) > 0:
            break
    losses = [half(step_of(i), 128, Schedule(10, warmup=0), i) for i in range(1, 4)]
    assert losses == pytest.approx(run(single, 4)[1:], abs=0.02)


def test_the_scale_rises_again() -> None:
    scale = LossScale(8.0, patience=3)
    for _ in range(3):
        scale.held()
    assert scale.value == 16.0 and scale.good == 0


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_what_is_not_finite_touches_no_weight(spoilt: str) -> None:
    def spoil(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def bad(*args: Any, **kwargs: Any) -> torch.Tensor:
            value = loss(*args, **kwargs)
            if spoilt == "loss":
                return value * float("nan")
            value.register_hook(lambda grad: grad * float("inf"))
            return value

        return bad

    stepper = make(wrap=spoil)
    before = state(stepper)
    with pytest.raises(NotFiniteError, match="loss became nan" if spoilt == "loss" else "gradient overflowed"):
        run(stepper, 1)
    assert furthest(before, state(stepper)) == 0.0
    assert not any(p.grad.any() for p in stepper.model.parameters() if p.grad is not None)


def test_checkpointed_activations_change_nothing() -> None:
    plain, frugal = make(), make()
    frugal.model.checkpoint_activations = True
    assert run(plain, 3) == run(frugal, 3)
    assert furthest(state(plain), state(frugal)) == 0.0


@pytest.mark.parametrize(("depth", "rows", "wanted", "each"), [(3, 16, 0, 4), (4, 8, 0, 2), (2, 8, 0, 8), (4, 8, 3, 3)])
def test_rows_of_a_pass_share_a_step_evenly(depth: int, rows: int, wanted: int, each: int) -> None:
    machine = Machine(torch.device("cpu"), torch.float32, Ranks(0, 0, 1))
    assert choose_rows(rows, shape(depth, 8192, 512), wanted, machine) == each


def test_a_pass_on_a_gpu_is_as_large_as_its_memory_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Machine(torch.device("cuda"), torch.bfloat16, Ranks())

    def tokens(gigabytes: int, depth: int) -> int:
        monkeypatch.setattr(Machine, "memory", gigabytes * 10**9)
        return forward_tokens(shape(depth, 32768, 2048), gpu)

    assert [tokens(85, depth) for depth in (12, 20, 24, 32)] == [65536, 32768, 32768, 16384]
    assert [tokens(24, depth) for depth in (12, 20, 26)] == [32768, 8192, 4096]
    assert tokens(1, 32) == 128  # less than a sequence: choose_rows takes one
    assert choose_rows(8, shape(32, 32768, 2048), 0, gpu) == 1
