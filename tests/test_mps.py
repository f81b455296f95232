"""What an Apple GPU does, against a CPU in float64: it runs where there is one, and on the CPU to show that it can be
passed."""

from __future__ import annotations

import copy

import pytest
import torch

from nanochat.eval.bpb import bits_per_byte
from nanochat.feed import MicroBatch, Step
from nanochat.inference import Engine, Request
from nanochat.machine import setup
from nanochat.model import choose_attention
from nanochat.train import BaseConfig, make_loss
from nanochat.train.between import Carrier
from nanochat.train.usage import Usage
from tests.test_cuda import BYTES, ids, model, stepper, trained

here = pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs an Apple GPU")
devices = pytest.mark.parametrize("device", ["cpu", pytest.param("mps", marks=here)])


@here
def test_a_mac_trains_uncompiled_and_looks_before_it_updates() -> None:
    machine = setup("auto")
    assert machine.device.type == "mps" and machine.dtype == torch.float32 and machine.ranks.world == 1
    assert choose_attention(machine.device, machine.dtype).name == "blocked"
    made = model(torch.float32, "mps")
    assert make_loss(made, BaseConfig().compile, machine) == made.loss
    plain = stepper(torch.float32, "mps")
    assert not plain.late and not plain.even
    assert Usage(machine, 0).step(1.0)["memory"] > 0


@devices
def test_training_follows_float64(device: str) -> None:
    exact, found = (trained(stepper(dtype, at), 3) for dtype, at in ((torch.float64, "cpu"), (torch.float32, device)))
    assert found == pytest.approx(exact, rel=2e-3)


@devices
def test_activations_computed_again_give_the_same(device: str) -> None:
    plain, frugal = (stepper(torch.float32, device) for _ in range(2))
    frugal.model.checkpoint_activations = True
    assert trained(frugal, 2) == pytest.approx(trained(plain, 2), rel=1e-3)


@devices
def test_the_optimiser_goes_on_from_what_it_saved(device: str) -> None:
    whole, first, second = (stepper(torch.float32, device) for _ in range(3))
    expected = trained(whole, 3)
    trained(first, 2)
    second.model.load_state_dict({k: v.cpu() for k, v in first.model.state_dict().items()})
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    assert trained(second, 1, first=2) == pytest.approx(expected[2:], rel=1e-3)


@devices
def test_bits_per_byte_and_greedy_answers_are_those_of_float64(device: str) -> None:
    exact, made = model(torch.float64, "cpu"), model(torch.float32, device)
    batch = ids(2)
    expected, found = (
        bits_per_byte(m, [(batch[:, :-1].to(at), batch[:, 1:].to(at))], BYTES.token_bytes)
        for m, at in ((exact, "cpu"), (made, device))
    )
    assert found == pytest.approx(expected, rel=1e-3)
    requests = [Request([BYTES.bos, *prompt], max_tokens=8, temperature=0.0) for prompt in (b"a", b"To be or")]
    wanted, said = ([c.ids for c in Engine(m, BYTES).generate(requests)] for m in (exact, made))
    assert said == wanted


@devices
def test_batches_stay_where_they_are(device: str) -> None:
    step = Step([MicroBatch(ids(1), ids(1))], 1, {})
    assert Carrier(torch.device(device))(step) is step
