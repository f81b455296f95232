"""The length, batch and rates of mid-training and fine-tuning before their first step."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from nanochat.feed import Example
from nanochat.machine import Machine, Ranks
from nanochat.scale import Rates
from nanochat.train import ChatConfig
from nanochat.train.chat import LR_SCALE, STEPS_ALONE, _plan
from nanochat.train.state import TrainState

T = 64
RATES = Rates()


class Chats:
    """As many conversations as lengths."""

    def __init__(self, *lengths: int) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def get(self, indices: list[int]) -> list[Example]:
        return [Example(np.zeros(self.lengths[i], np.int64), np.ones(self.lengths[i], bool)) for i in indices]


def planned(source: Any, batch: int, **settings: Any) -> TrainState:
    before = TrainState("base", "x", batch_tokens=batch, rates=asdict(RATES))
    machine = Machine(torch.device("cpu"), torch.float32, Ranks())
    return _plan(ChatConfig(stage="sft", **settings), "x", before, source, T, machine)


def test_all_of_a_few_conversations_count() -> None:
    """Not only the first ones of them."""
    assert planned(Chats(*[10] * 20, *[50] * 20), 4 * T, num_epochs=32).steps == 32 * 1200 // (4 * T)


@pytest.mark.parametrize("before", [16 * T, 0])  # 0: another program's model, of which nobody knows
def test_a_few_chats_alone_are_learnt_in_many_small_steps(before: int) -> None:
    plan = planned(Chats(*[32] * 1000), before, general=False, data=("x",))
    usual = max(before, T)
    assert plan.batch_tokens == min(usual, 2 * T)
    assert plan.steps == 32_000 // plan.batch_tokens >= STEPS_ALONE
    share = LR_SCALE["sft"] * (plan.batch_tokens / usual) ** 0.5
    assert plan.rates["matrix"] == pytest.approx(RATES.matrix * share)
