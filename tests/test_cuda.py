"""What a GPU does, against a CPU in float64: the same tests run on a CPU, where they show that they can be passed.

They need pytest, torch and safetensors alone: `benchmarks.gpu` runs those marked `cuda` on a bare image.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal

import pytest
import torch

from nanochat.eval.bpb import bits_per_byte
from nanochat.feed.loader import MicroBatch, Step
from nanochat.inference import Engine, Request
from nanochat.inference.runner import Chunk
from nanochat.inference.torch_runner import TorchRunner
from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig, attention
from nanochat.optim import Optimizer, Schedule
from nanochat.scale import Rates, shape
from nanochat.tokenizer import Tokenizer
from nanochat.train.between import Carrier
from nanochat.train.step import LossScale, Stepper

ROOT = Path(__file__).parents[1]
CONFIG = ModelConfig.of(shape(2, 265, 160), windows="SL")  # bytes and the special tokens
RATES = Rates(0.002, 0.003, 0.001, 0.01, 0.001)
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)})

devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])


def model(dtype: torch.dtype, device: str) -> GPT:
    """The same weights everywhere; none is 0, so that every part counts."""
    made = GPT(CONFIG, dtype).init_weights(0)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.05)
    return (made.double() if dtype == torch.float64 else made).to(device)


def ids(rows: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 265, (rows, CONFIG.seq_len + 1), generator=torch.Generator().manual_seed(seed))


def stepper(dtype: torch.dtype, device: str, sparse: bool = False) -> Stepper:
    machine = Machine(torch.device(device), dtype, Ranks())
    made = model(dtype, device)
    muon = {torch.float64: torch.float64, torch.bfloat16: torch.bfloat16}.get(dtype, torch.float32)
    if sparse:
        made.use_sparse_tables()
    return Stepper(machine, made, Optimizer(made, RATES, muon), made.loss, LossScale())


def trained(made: Stepper, steps: int, first: int = 0) -> list[float]:
    losses = []
    for number in range(first, first + steps):
        batch = ids(4, number)
        micro = [MicroBatch(part[:, :-1], part[:, 1:]) for part in batch.split(2)]
        valid = 4 * CONFIG.seq_len
        losses.append(made(Step(micro, valid, {}), valid, Schedule(20, warmup=2), number))
    return losses


@devices
@pytest.mark.parametrize(
    ("dtype", "close"), [("float32", 2e-3), ("bfloat16", 2e-2), pytest.param("float16", 2e-2, marks=pytest.mark.slow)]
)
def test_training_follows_float64(device: str, dtype: str, close: float) -> None:
    exact = trained(stepper(torch.float64, "cpu"), 6)
    found = trained(stepper(getattr(torch, dtype), device), 6)
    assert found == pytest.approx(exact, rel=close)
    assert found[-1] < found[0]


@devices
def test_a_step_is_not_waited_for(device: str) -> None:
    """Batches go ahead, the update guards itself, and the outcome comes when it is asked for."""
    expected = trained(stepper(torch.float64, "cpu"), 3)
    made = stepper(torch.float32, device)
    made = Stepper(made.machine, made.model, made.optimizer, made.loss, LossScale(), late=True)
    carry, outcomes = Carrier(made.machine.device), []
    for number in range(3):
        batch = ids(4, number)
        micro = [MicroBatch(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in batch.split(2)]
        if device == "cuda":
            micro = [MicroBatch(one.ids.pin_memory(), one.targets.pin_memory()) for one in micro]
        with no_waiting(device) if number else nullcontext():  # AdamW makes its state in the first
            step = carry(Step(micro, batch.numel(), {}))
            outcomes.append(made.begin(step, 4 * CONFIG.seq_len, Schedule(20, warmup=2), number))
    assert [outcome.read() for outcome in outcomes[-2:]] == pytest.approx(expected[-2:], rel=2e-3)


@devices
def test_tables_by_rows_train_too(device: str) -> None:
    exact, found = (trained(stepper(torch.float64, at, sparse=True), 4) for at in ("cpu", device))
    assert found == pytest.approx(exact, rel=1e-6)


@devices
def test_activations_computed_again_give_the_same(device: str) -> None:
    plain, frugal = (stepper(torch.float32, device) for _ in range(2))
    frugal.model.checkpoint_activations = True
    assert trained(frugal, 3) == pytest.approx(trained(plain, 3), rel=1e-3)


@devices
def test_out_of_memory_halves_the_pass(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real on a GPU: this process may take what one row needs and a little more."""
    expected = trained(stepper(torch.float32, device), 2)
    made = stepper(torch.float32, device)
    if device == "cpu":
        loss = made.loss

        def small(given: torch.Tensor, *others: torch.Tensor, reduction: str) -> torch.Tensor:
            if len(given) > 1:
                raise RuntimeError("can't allocate memory")
            return loss(given, *others, reduction=reduction)

        made.loss = small
        assert trained(made, 2) == pytest.approx(expected, rel=1e-4) and made.rows == 1
        return
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    batch = ids(1).to(device)
    made.loss(batch[:, :-1], batch[:, 1:], reduction="sum").backward()
    one = torch.cuda.max_memory_allocated() - before
    made.optimizer.clear()
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    wide = torch.cat([ids(64, seed) for seed in range(2)])
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + 8 * one + (64 << 20)) / whole))
    try:
        made(Step([MicroBatch(wide[:, :-1], wide[:, 1:])], wide.numel(), {}), wide.numel(), Schedule(20), 0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= made.rows < 128


@devices
def test_bits_per_byte_are_those_of_float64(device: str) -> None:
    def measured(made: GPT, at: str) -> float:
        batch = ids(4).to(at)
        return bits_per_byte(made, [(batch[:, :-1], batch[:, 1:])], BYTES.token_bytes)

    expected = measured(model(torch.float64, "cpu"), "cpu")
    for dtype, close in ((torch.float32, 1e-3), (torch.bfloat16, 1e-2)):
        assert measured(model(dtype, device), device) == pytest.approx(expected, rel=close)


@devices
def test_greedy_answers_are_those_of_float64(device: str) -> None:
    """Of rows of several lengths, side by side and alone."""
    requests = [
        Request([BYTES.bos, *prompt], max_tokens=12, temperature=0.0) for prompt in (b"a", b"To be or", b"1+1=")
    ]
    expected = [c.ids for c in Engine(model(torch.float64, "cpu"), BYTES).generate(requests)]
    engine = Engine(model(torch.float32, device), BYTES)
    assert [c.ids for c in engine.generate(requests)] == expected
    assert [engine.generate([request])[0].ids for request in requests] == expected


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """For the GPU, which torch then refuses."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def decoded(made: GPT, record: Literal["auto"] | None) -> list[torch.Tensor]:
    """Logits behind prompts of several lengths, then of fewer and fewer rows, two tokens each, in mixed slots."""
    runner = TorchRunner(made, record)
    runner.grow(6, 200)
    held = {slot: ids(1, slot)[0, :length].tolist() for slot, length in ((4, 3), (0, 150), (2, 40), (5, 1), (1, 77))}
    found = [runner.step([Chunk(slot, 0, past, -1) for slot, past in held.items()]).cpu()]
    for step in range(10):
        chunks = [Chunk(slot, len(past), [step + slot], past[-1]) for slot, past in list(held.items())[step // 2 :]]
        # The first step of so many rows may be recorded.
        with no_waiting(made.device.type) if step % 2 else nullcontext():
            logits = runner.step(chunks)
        found.append(logits.cpu())
        for chunk in chunks:
            held[chunk.slot] += chunk.ids
    return found


@devices
def test_decoding_makes_no_plans(device: str) -> None:
    """cuDNN's attention makes one for every length, which takes longer than all the rest of a step."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as prof:
        decoded(model(torch.bfloat16, device), None)
    called = {event.key for event in prof.key_averages()}
    assert any("scaled_dot_product" in name for name in called) and not any("cudnn" in name for name in called)
    with torch.no_grad(), attention._without_plans(torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    with attention._without_plans(torch.device("cuda")):
        assert torch.backends.cuda.cudnn_sdp_enabled()


@devices
@pytest.mark.parametrize("record", ["auto", None])
@pytest.mark.parametrize(("dtype", "close"), [("float32", 0.03), ("bfloat16", 0.1)])
def test_the_runners_logits_are_those_of_float64(
    device: str, record: Literal["auto"] | None, dtype: str, close: float
) -> None:
    """Recorded as CUDA graphs and not, with attention by pages (bfloat16, where torch can) and by masks."""
    made = model(getattr(torch, dtype), device)
    expected = decoded(model(torch.float64, "cpu"), None)
    for got, exact in zip(decoded(made, record), expected, strict=True):
        torch.testing.assert_close(got.double(), exact, atol=close, rtol=0)


@devices
def test_recorded_steps_take_weights_that_change_in_place(device: str) -> None:
    made = model(torch.float32, device)
    runner = TorchRunner(made)
    runner.grow(1, 20)

    def after(ids: list[int]) -> torch.Tensor:
        runner.step([Chunk(0, 0, ids[:-1], -1)])
        return runner.step([Chunk(0, len(ids) - 1, ids[-1:], ids[-2])]).clone()

    before = after([1, 2, 3])
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(1.2)
    runner.refresh()
    now = after([1, 2, 3])
    assert runner.recordings == (device == "cuda")
    with torch.no_grad():
        torch.testing.assert_close(now[0], made(torch.tensor([[1, 2, 3]], device=device))[0, -1], atol=0.03, rtol=0)
    assert (now - before).abs().max() > 0.1


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu_decodes_in_a_thread() -> None:
    """Where the current GPU is the first one, as in the server."""
    made = model(torch.float32, "cuda:1")
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(decoded, made, "auto").result()
    for got, exact in zip(found, decoded(model(torch.float64, "cpu"), None), strict=True):
        torch.testing.assert_close(got.double(), exact, atol=0.03, rtol=0)


@devices
def test_equal_requests_get_equal_samples(device: str) -> None:
    engine = Engine(model(torch.float32, device), BYTES)
    asked = Request([BYTES.bos, 65], max_tokens=12, temperature=1.0, seed=3, n=3)
    first, second = ([c.ids for c in engine.generate([asked])] for _ in range(2))
    assert first == second and len({tuple(sample) for sample in first}) > 1


@devices
def test_the_optimiser_goes_on_from_what_it_saved(device: str) -> None:
    """Through the CPU, as a checkpoint does."""
    whole, first, second = (stepper(torch.float32, device) for _ in range(3))
    expected = trained(whole, 4)
    trained(first, 2)
    second.model.load_state_dict({k: v.cpu() for k, v in first.model.state_dict().items()})
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    assert trained(second, 2, first=2) == pytest.approx(expected[2:], rel=1e-3)


DETERMINISTIC = """
import hashlib, sys
from nanochat.machine import setup
setup(sys.argv[1], "float32", deterministic=True)
from tests.test_cuda import stepper, trained
import torch
made = stepper(torch.float32, sys.argv[1])
trained(made, 3)
digest = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in made.model.parameters()))
print(digest.hexdigest())
"""


@devices
def test_deterministic_runs_have_the_same_bits(device: str) -> None:
    """In processes of their own, since the setting cannot be taken back everywhere."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DETERMINISTIC, device]
    runs = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (run.communicate()[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0]
    assert first == second and len(first.strip()) == 64


@pytest.mark.slow
@devices
def test_float8_trains_nearly_as_bfloat16(device: str) -> None:
    """Evaluation does not use it."""
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card has no float8 units")
    plain, small = (stepper(torch.bfloat16, device) for _ in range(2))
    small.model.use_float8()
    assert any(module.float8 for module in small.model.modules() if hasattr(module, "float8"))
    batch = ids(2).to(device)
    with torch.no_grad():
        assert torch.equal(small.model(batch), plain.model(batch))
    assert trained(small, 6) == pytest.approx(trained(plain, 6), rel=3e-2)
