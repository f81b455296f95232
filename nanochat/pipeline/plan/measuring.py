"""How fast this machine trains: the real training step on random tokens, for some seconds."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from nanochat.console import Progress
from nanochat.machine import Machine
from nanochat.model import ModelConfig
from nanochat.train.config import Compile

WARM = 2  # steps that compile
FEWEST = 4  # steps after them: an even number, since small models' matrices are updated in turns
MOST_PASSES = 4  # of a step; more of them take as long each
RATIO = 12.0  # of the run whose learning rates are taken; they change no speed


@dataclass(frozen=True)
class Measured:
    """tokens_per_second: of one process. steps: that were timed. seconds: they took."""

    tokens_per_second: float
    steps: int
    seconds: float


def measure(
    config: ModelConfig,
    batch_tokens: int,
    machine: Machine,
    fp8: bool = False,
    seconds: float = 30.0,
    compile: Compile = "auto",
) -> Measured:
    """Train for so many seconds, compiling included, or longer until FEWEST steps are timed.

    batch_tokens: of a whole step. A step of many passes is timed with a few of them and counted as if it had all.
    UserError when not even one sequence fits into memory.
    """
    import torch

    from nanochat.feed import MicroBatch, Step
    from nanochat.model import GPT
    from nanochat.optim import Schedule
    from nanochat.train import BaseConfig, LossScale, Stepper, make_loss, make_plan, suited
    from nanochat.train.equip import make_optimizer, set_attention

    settings = BaseConfig(
        depth=config.depth, total_batch_size=batch_tokens, num_iterations=1000, fp8=fp8, compile=compile
    )
    updating: list[float] = []
    plan = make_plan(settings, config, machine, 0.0)
    model = GPT(config, machine.dtype).init_weights(0).to(machine.device)
    set_attention(model, "auto", machine)
    optimizer = make_optimizer(model, plan, settings, machine)
    loss = make_loss(model, compile, machine)
    _, rows = suited(plan, model, loss, optimizer, batch_tokens // config.seq_len, settings, machine)
    whole = math.ceil(batch_tokens / config.seq_len / rows)
    passes = min(whole, MOST_PASSES)
    began = time.perf_counter()

    def wait() -> float:
        if machine.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    stepper = Stepper(machine, model, optimizer, loss, LossScale(), on_update=lambda: updating.append(wait()))
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (passes * rows, config.seq_len + 1), generator=draw)
    x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    micro = [MicroBatch(a, b) for a, b in zip(x.split(rows), y.split(rows), strict=True)]
    batch = Step(micro, x.numel(), {})
    with Progress(seconds, "measuring", "s") as bar:
        took: list[float] = []
        shown = began
        while len(took) < WARM + FEWEST or (wait() - began < seconds or len(took) % 2):
            at = wait()
            stepper(batch, batch.valid, Schedule.pretraining(1000), len(took))
            now = wait()
            took.append((updating[-1] - at) / passes * whole + now - updating[-1])
            bar.advance(min(now, began + seconds) - shown, steps=f"{len(took)}")
            shown = min(now, began + seconds)
    timed = took[WARM:]
    return Measured(batch_tokens * len(timed) / sum(timed), len(timed), sum(timed))
