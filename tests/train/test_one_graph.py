"""What a GPU compiles: a loss in one graph, Muon in one for each shape of matrices, and nothing anew in a run.

On a CPU, with a GPU's choices. Graphs are made and run as they are: making kernels of them would take a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import fx
from torch._dynamo.utils import counters

from nanochat.feed import MicroBatch, Step
from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.model.attention import Backend
from nanochat.optim import Optimizer, Schedule
from nanochat.scale import Rates
from nanochat.train import LossScale, Stepper

MODERN = ModelConfig(4, 32, 2, 1, 50, 512, "modern", 100000.0, windows="SSSL", bigram=31)
CLASSIC = ModelConfig(2, 32, 2, 2, 50, 512)
CASES = pytest.mark.parametrize(
    ("config", "frugal"),
    [(MODERN, True), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((MODERN, False), (CLASSIC, True)))],
    ids=["modern, checkpoints", "modern", "classic, checkpoints"],
)


def make(config: ModelConfig, frugal: bool, backend: Backend) -> GPT:
    model = GPT(config, torch.bfloat16).init_weights(0)
    model.checkpoint_activations = frugal
    for block in model.layers:
        block.attn.backend = backend
    return model


@CASES
def test_nothing_is_compiled_anew_in_a_run(config: ModelConfig, frugal: bool) -> None:
    """Five sequences in passes of two; gradients are listened to, as where ranks send them."""
    torch._dynamo.reset()
    counters.clear()
    model = make(replace(config, depth=2, seq_len=16), frugal, "blocked")
    optimizer, heard = Optimizer(model, Rates(), torch.bfloat16), [0]
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: heard.__setitem__(0, heard[0] + 1))

    def compiler(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        made: Callable[..., Any] = torch.compile(function, **{**how, "backend": "eager", "fullgraph": True})
        return made

    optimizer.compile_whole(compiler)
    machine = Machine(torch.device("cpu"), torch.bfloat16, Ranks())
    loss = compiler(model.loss, dynamic=False)
    stepper = Stepper(machine, model, optimizer, loss, LossScale(), even=True, late=True)
    graphs = []
    for number in range(3):
        ids = torch.randint(0, 50, (5, 17), generator=torch.Generator().manual_seed(number))
        micro = [MicroBatch(part[:, :-1].contiguous(), part[:, 1:].contiguous()) for part in ids.split(2)]
        stepper(Step(micro, 80, {}), 80, Schedule(10, warmup=5), number)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [len(optimizer.stacks) + 1] * 3
    assert not counters["graph_break"]
    assert heard[0] == 3 * 3 * len(list(model.parameters()))


@CASES
@pytest.mark.parametrize("backend", ["flash", pytest.param("sdpa", marks=pytest.mark.slow)])
def test_the_loss_is_one_graph_with_a_gpus_attention(config: ModelConfig, frugal: bool, backend: Backend) -> None:
    """Its kernels cannot run here, so that the graph is only made."""
    torch._dynamo.reset()
    found: list[fx.GraphModule] = []

    def capture(graph: fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., list[torch.Tensor]]:
        found.append(graph)
        [output] = [node for node in graph.graph.nodes if node.op == "output"]
        made = [torch.zeros_like(node.meta["example_value"], device="cpu") for node in output.args[0]]
        return lambda *given: made

    model = make(config, frugal, backend)
    ids = torch.zeros((2, config.seq_len), dtype=torch.long)
    loss = torch.compile(model.loss, dynamic=False, fullgraph=True, backend=capture)(ids, ids, reduction="sum")
    assert loss.shape == () and len(found) == 1
    if backend == "flash" and config.modern:
        code = "".join(str(part.graph) for part in found[0].modules() if isinstance(part, fx.GraphModule))
        assert "varlen" in code
