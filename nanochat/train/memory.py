"""Memory of a training step, predicted by taking the real one on tensors that have shapes and no contents.

Model, loss, optimiser and `Stepper` are those of a training. torch's FakeTensorMode stands in for the kernels, so that
no GPU and hardly any memory is needed; `Allocations` adds up what would be held. torch's own MemTracker was no choice:
it learns what is what from calls of modules and of torch's optimisers, and a step here calls a method and an optimiser
of ours.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from nanochat import scale
from nanochat.feed import MicroBatch, Step
from nanochat.machine import Machine, Ranks
from nanochat.model import GPT, ModelConfig, chunk_rows
from nanochat.optim import Optimizer, Schedule
from nanochat.train.config import BaseConfig
from nanochat.train.equip import make_optimizer
from nanochat.train.state import TrainState
from nanochat.train.step import LossScale, Stepper

RATIO = 12.0  # tokens per parameter of the run whose rates are taken; they change no size


@dataclass(frozen=True)
class Memory:
    """Bytes per device. `peak` is weights + gradients + optimizer, held all the time, and the larger of the two phases:
    activations + loss + temporaries (forward and backward pass), or `update`.

    weights: in float32, the rotary tables too. optimizer: this rank's part. activations: kept for the backward pass.
    loss: kept by the loss, which takes its gradients in the forward pass. Not in it: the allocator's fragments, CUDA's
    context (about half a GB), the libraries' workspaces.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    loss: int
    temporaries: int
    update: int

    @property
    def peak(self) -> int:
        phase = max(self.activations + self.loss + self.temporaries, self.update)
        return self.weights + self.gradients + self.optimizer + phase


def predict(
    config: ModelConfig,
    rows: int,
    world: int = 1,
    dtype: str = "bfloat16",
    device: str = "cuda",
    *,
    batch_tokens: int = 0,
    compiled: bool = True,
    checkpoint_activations: bool = False,
    fp8: bool = False,
) -> Memory:
    """Memory of a step of pretraining. rows: sequences per forward pass and device. world: ranks. device: cuda or cpu.
    batch_tokens: of a whole step; 0: one pass of each rank. It must not be called by a rank of several.
    """
    settings = BaseConfig(compile="off", checkpoint_activations=checkpoint_activations, fp8=fp8)
    batch_tokens = batch_tokens or rows * world * config.seq_len
    choices = Machine(torch.device(device), getattr(torch, dtype), Ranks(world=world))
    with _ranks(world), FakeTensorMode(), Allocations() as memory:

        def trial(depth: int) -> _Trial:
            return _Trial(memory, replace(config, depth=depth), choices, settings, rows, batch_tokens)

        whole = trial(config.depth)
        few = _few_layers(config)
        if few + few >= config.depth:
            held, most = whole.take_pass()
        else:
            # Layers are alike after so many: every further such group adds the same.
            (held, most), (more_held, more_most) = trial(few).take_pass(), trial(2 * few).take_pass()
            groups = (config.depth - few) // few
            held, most = held + groups * (more_held - held), most + groups * (more_most - most)
        return whole.memory(held, most)


def _few_layers(config: ModelConfig) -> int:
    return config.depth


class Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, until they are freed. live: now; peak: at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._held: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.0  # what a step reads: a loss of 0, and no gradient that overflows
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and tensor.layout == torch.strided:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._held:
            self._held[key] = weakref.ref(storage, lambda _: self._free(key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _free(self, key: int, size: int) -> None:
        del self._held[key]
        self.live -= size


class _Trial:
    """A model and everything that a training has for it."""

    def __init__(
        self,
        memory: Allocations,
        config: ModelConfig,
        choices: Machine,
        settings: BaseConfig,
        rows: int,
        batch_tokens: int,
    ):
        """choices: the machine that decides what runs; all tensors are the CPU's, since fake ones of a GPU need one."""
        self.counted, self.config, self.rows = memory, config, rows
        self.dtype, self.world = choices.dtype, choices.ranks.world
        before = memory.live
        self.model = _empty(config, choices.dtype)
        if choices.device.type != "cpu":
            self.model.loss_chunk = chunk_rows(config.vocab_size, choices.device)
            for block in self.model.layers:
                block.attn.backend = "flex" if choices.dtype == torch.float32 else "flash"
        rates = scale.rates(config.shape, batch_tokens, scale.tokens(config.shape, RATIO), RATIO)
        plan = TrainState("base", "", batch_tokens=batch_tokens, rates=asdict(rates))
        self.optimizer: Optimizer = make_optimizer(self.model, plan, settings, choices)
        self.before = before
        self.loss: Callable[..., Tensor] = self.model.loss
        share = batch_tokens // self.world // config.seq_len
        ids = torch.zeros((share, config.seq_len), dtype=torch.long)
        pieces = [MicroBatch(piece, piece) for piece in ids.split(rows)]
        # Only sparse gradients grow with the passes.
        self.batch = pieces if self.optimizer.tables else pieces[:1]
        self.machine = Machine(torch.device("cpu"), choices.dtype, choices.ranks)

    def take_pass(self) -> tuple[int, int]:
        """Take a step. Returns the bytes that its forward pass keeps, and the most that the pass holds at once."""
        held: list[int] = []
        most: list[int] = []
        before = self.counted.live

        def loss(*given: Tensor, **how: Any) -> Tensor:
            total = self.loss(*given, **how)
            held.append(self.counted.live - before)
            return total

        def updating() -> None:
            most.append(self.counted.peak - before)
            self.counted.peak = self.counted.live

        self.counted.peak = before
        stepper = Stepper(self.machine, self.model, self.optimizer, loss, LossScale(), updating)
        stepper(Step(self.batch, 1, {}), 1, Schedule.pretraining(1000), 0)
        return held[-1], most[-1]

    def memory(self, held: int, most: int) -> Memory:
        """Of a step whose pass keeps and holds so much."""
        counted, optimizer = self.counted, self.optimizer
        with torch.no_grad():
            for turn in range(optimizer.muon_every + 1):
                optimizer.step(Schedule.pretraining(1000), turn)
                if not turn:  # in the first step AdamW's state is made
                    always = counted.live
                    counted.peak = always
        grads = [*(stack.grads for stack in optimizer.stacks), *optimizer.grads.values()]
        gradients, state = _bytes(grads), _bytes(optimizer.state_dict().values())
        c = self.config
        kept = c.vocab_size * c.width * 4 + self.rows * c.seq_len * c.width * self.dtype.itemsize
        return Memory(
            weights=always - self.before - gradients - state,
            gradients=gradients,
            optimizer=state,
            activations=held - kept,
            loss=kept,
            temporaries=most - held,
            update=counted.peak - always,
        )


def _empty(config: ModelConfig, dtype: torch.dtype) -> GPT:
    """A model with fake weights."""
    with torch.device("meta"):
        model = GPT(config, dtype)
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="cpu"))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return model


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of their storages."""
    return sum({s._cdata: s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


@contextmanager
def _ranks(world: int) -> Iterator[None]:
    """Pretend to be the first of several ranks."""
    if world == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()
