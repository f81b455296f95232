"""Memory of a training step, predicted by taking the real one on tensors that have shapes and no contents.

Model, loss, optimiser and `Stepper` are those of a training. torch's FakeTensorMode stands in for the kernels, so that
no GPU and hardly any memory is needed; `Allocations` adds up what would be held. torch's own MemTracker was no choice:
it learns what is what from calls of modules and of torch's optimisers, and a step here calls a method and an optimiser
of ours.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

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
from nanochat.train.equip import compiled_loss, make_optimizer
from nanochat.train.graphs import Compiler
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
        compiler = Compiler(memory.count, device == "cpu") if compiled else None

        def trial(depth: int) -> _Trial:
            memory.forget()
            return _Trial(memory, replace(config, depth=depth), choices, settings, rows, batch_tokens, compiler)

        few, group = _few_layers(config)
        groups = max(0, config.depth - few) // group
        if groups > 1:
            first, second = (trial(depth).take_pass() for depth in (few, few + group))
            held, most = (a + groups * (b - a) for a, b in zip(first, second, strict=True))
            return trial(config.depth).memory(held, most)
        whole = trial(config.depth)
        return whole.memory(*whole.take_pass())


def _few_layers(config: ModelConfig) -> tuple[int, int]:
    """A depth from which on every further group of so many layers adds the same to a pass, and this number.

    Windows and value embeddings recur after a group. With fewer than four layers, the middle one is the last.
    """
    group = math.lcm(len(config.windows), 2) if config.modern else len(config.windows)
    few = config.depth % group
    return few + group * -(-(4 - few) // group), group


class Allocations(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, until they are freed. live: now; peak: at most."""

    def __init__(self) -> None:
        super().__init__()
        self._paused = False
        self.forget()

    def forget(self) -> None:
        """Count anew; what there is already may be freed at any time."""
        self.live = self.peak = 0
        self._held: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0.0  # what a step reads: a loss of 0, and no gradient that overflows
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and not tensor.is_sparse:  # whose parts were made before it
                self._count(tensor.untyped_storage())
        return out

    @contextmanager
    def count(self, whether: bool) -> Iterator[None]:
        """Whether to count what is made meanwhile."""
        before, self._paused = self._paused, not whether
        try:
            yield
        finally:
            self._paused = before

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._held and not self._paused:
            held = self._held
            held[key] = weakref.ref(storage, lambda _: self._free(held, key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _free(self, held: dict[int, Any], key: int, size: int) -> None:
        del held[key]
        if held is self._held:
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
        compiler: Compiler | None,
    ):
        """choices: the machine that decides what runs; all tensors are the CPU's, since fake ones of a GPU need one."""
        self.counted, self.config, self.rows = memory, config, rows
        self.dtype, self.world = choices.dtype, choices.ranks.world
        self.model = _empty(config, choices.dtype)
        if choices.device.type != "cpu":
            self.model.loss_chunk = chunk_rows(config.vocab_size, choices.device)
            for block in self.model.layers:
                block.attn.backend = "flash"  # flex, where that is chosen, keeps the same
        rates = scale.rates(config.shape, batch_tokens, scale.tokens(config.shape, RATIO), RATIO)
        plan = TrainState("base", "", batch_tokens=batch_tokens, rates=asdict(rates))
        self.optimizer: Optimizer = make_optimizer(self.model, plan, settings, choices)
        self.loss: Callable[..., Tensor] = self.model.loss
        if compiler:
            self.optimizer.compile_parts(compiler)
            self.loss = compiled_loss(self.model, choices, compiler, whole=False)
        ids = torch.zeros((rows, config.seq_len), dtype=torch.long)
        self.batch = [MicroBatch(ids, ids)]
        self.passes = -(-batch_tokens // (self.world * ids.numel()))
        self.machine = Machine(torch.device("cpu"), choices.dtype, choices.ranks)

    def take_pass(self) -> tuple[int, int]:
        """Take a step up to its update. Returns the bytes that its forward pass keeps, and the most that are held."""
        held: list[int] = []
        most: list[int] = []
        before = self.counted.live

        def loss(*given: Tensor, **how: Any) -> Tensor:
            total = self.loss(*given, **how)
            held.append(self.counted.live - before)
            return total

        def updating(*given: Any) -> None:
            most.append(self.counted.peak - before)

        self.counted.peak = before
        optimizer = cast(Optimizer, SimpleNamespace(arm=_nothing, reduce=_nothing, step=updating))
        stepper = Stepper(self.machine, self.model, optimizer, loss, LossScale())
        stepper(Step(self.batch, 1, {}), 1, Schedule.pretraining(1000), 0)
        return held[-1], most[-1]

    def memory(self, held: int, most: int) -> Memory:
        """Of a step whose pass keeps and holds so much."""
        counted, optimizer, c = self.counted, self.optimizer, self.config
        with torch.no_grad():
            for turn in range(optimizer.muon_every + 1):
                optimizer.step(Schedule.pretraining(1000), turn)
                if not turn:  # in the first step AdamW's state is made
                    always = counted.live
                    counted.peak = always
        # A sparse gradient, of which a fake one keeps nothing, has all rows that were looked up in the passes so far.
        a_pass = sum(self.rows * c.seq_len * (table.weight.size(1) * 4 + 8) for table in optimizer.tables.values())
        gradients = _bytes(optimizer.room) + (self.passes - 1) * a_pass
        state = _bytes(optimizer.state_dict().values())
        kept = c.vocab_size * c.width * 4 + self.rows * c.seq_len * c.width * self.dtype.itemsize
        return Memory(
            weights=_bytes([*self.model.parameters(), *self.model.buffers()]),
            gradients=gradients,
            optimizer=state,
            activations=held - kept,
            loss=kept,
            temporaries=most - held,
            update=counted.peak - always,
        )


def _nothing() -> None:
    """Pieces of the trace that are not there."""


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
