"""Training steps as nanochat.train takes them, on random ids: the dial's batch, the optimiser included."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import wait_for

if TYPE_CHECKING:
    from nanochat.model import Backend, Wanted

WARM = 2  # steps that do not count: they compile
RATIO = 12.0  # tokens per parameter of the run that the batch is for


def pieces(sizes: Sizes) -> dict[str, Callable[[], dict[str, Any]]]:
    """First a model compiled as a whole, as in GPU trainings, which took a minute on an H100; then models compiled in
    parts, the largest first; then the rest."""
    first = sizes.depths[0]
    found: dict[str, Callable[[], dict[str, Any]]] = {f"d{first} bf16": partial(step, sizes, first)}
    if sizes.on_cpu:  # whose parts are compiled to machine code, which takes longer than a test may
        return {**found, **{f"d{depth} fp8": partial(step, sizes, depth, True) for depth in sizes.depths}}
    for depth in reversed(sizes.depths):
        for float8 in (False, True):
            name = f"d{depth} {'fp8' if float8 else 'bf16'} in parts"
            found[name] = partial(step, sizes, depth, float8, parts=True)
    others: tuple[Backend, ...] = ("flash", "flex", "sdpa", "blocked")
    for backend in others:
        found[f"d{first} bf16 {backend}"] = partial(step, sizes, first, False, backend)
    for depth in sizes.depths:
        for float8 in (False, True):
            found.setdefault(f"d{depth} {'fp8' if float8 else 'bf16'}", partial(step, sizes, depth, float8))
    return found


class Work:
    """A model with the dial's settings, its training step, and ids for one step or its first `sizes.passes` passes.

    tokens: of a whole step. rows: sequences in a pass.
    """

    def __init__(
        self, sizes: Sizes, depth: int, float8: bool = False, backend: Backend | None = None, parts: bool = False
    ) -> None:
        import torch

        from nanochat import scale
        from nanochat.feed import MicroBatch, Step
        from nanochat.model import GPT, ModelConfig, choose_attention
        from nanochat.optim import Optimizer
        from nanochat.train import LossScale, Stepper, choose_rows, muon_dtype

        self.machine = sizes.machine()
        self.config = ModelConfig.from_depth(depth, sizes.vocab, sizes.seq_len)
        shape = self.config.shape
        n_tokens = scale.tokens(shape, RATIO)
        self.tokens = sizes.batch or scale.batch_tokens(shape, n_tokens, RATIO)
        self.model = GPT(self.config, self.machine.dtype).init_weights(0).to(self.machine.device)
        wanted: Wanted = backend or "auto"
        chosen = choose_attention(self.machine.device, self.machine.dtype, self.config.head_dim, False, wanted)
        self.attention = str(chosen)
        self.model.use_attention(cast("Backend", chosen.name))
        if float8:
            self.model.use_float8()
        rates = scale.rates(shape, self.tokens, n_tokens, RATIO)
        self.optimizer = Optimizer(self.model, rates, muon_dtype(self.machine), compiled=not sizes.on_cpu)
        if parts:
            self.model.compile_parts()
        loss = self.model.loss if parts else torch.compile(self.model.loss, dynamic=False, backend=sizes.compiler)
        self.stepper = Stepper(self.machine, self.model, self.optimizer, loss, LossScale())
        total_rows = self.tokens // sizes.seq_len
        self.rows = choose_rows(total_rows, shape, sizes.rows, self.machine)
        self.whole_passes = math.ceil(total_rows / self.rows)
        self.passes = min(self.whole_passes, sizes.passes)
        g = torch.Generator().manual_seed(0)
        ids = torch.randint(0, sizes.vocab, (self.passes * self.rows, sizes.seq_len + 1), generator=g)
        x, y = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        micro = [MicroBatch(a, b) for a, b in zip(x.split(self.rows), y.split(self.rows), strict=True)]
        self.batch = Step(micro, x.numel(), {})

    def step(self, number: int) -> float:
        """The loss before the update."""
        from nanochat.optim import Schedule

        return self.stepper(self.batch, self.batch.valid, Schedule.pretraining(1000), number)


def step(
    sizes: Sizes, depth: int, float8: bool = False, backend: Backend | None = None, parts: bool = False
) -> dict[str, Any]:
    """ms of a step and of its update, tokens/s, MFU (of float8's peak in float8), peak memory and what was
    predicted, seconds of the first steps.

    The time of a step of more than `passes` passes is its number of passes times their mean, plus the update. rows:
    sequences in a pass, fewer than `rows_wanted` if they did not fit in memory.
    """
    import torch

    from nanochat.machine import peak_flops
    from nanochat.train import predict

    began = time.perf_counter()
    work = Work(sizes, depth, float8, backend, parts)
    built = time.perf_counter() - began
    update = work.optimizer.step
    updates: list[float] = []

    def timed(*args: Any) -> None:
        wait_for(sizes.device)
        at = time.perf_counter()
        update(*args)
        wait_for(sizes.device)
        updates.append(time.perf_counter() - at)

    # Time the real training step, and the update inside it.
    work.optimizer.step = timed  # type: ignore[method-assign, assignment]
    took, losses = [], []
    for number in range(WARM + sizes.steps):
        at = time.perf_counter()
        losses.append(work.step(number))
        wait_for(sizes.device)
        took.append(time.perf_counter() - at)
    updating = statistics.median(updates[WARM:])
    a_pass = (statistics.median(took[WARM:]) - updating) / work.passes
    seconds = work.whole_passes * a_pass + updating
    speed = work.tokens / seconds
    row = {
        "ms": seconds * 1e3,
        "pass_ms": a_pass * 1e3,
        "update_ms": updating * 1e3,
        "tokens_per_s": speed,
        "mfu": speed * work.config.flops_per_token / peak_flops(work.machine, float8),
        "batch_tokens": work.tokens,
        "passes": work.passes,
        "rows": work.stepper.rows or work.rows,
        "rows_wanted": work.rows,
        "attention": work.attention,
        "params": work.model.num_params(),
        "build_s": built,
        "first_step_s": took[0],
        "second_step_s": took[1],
        "losses": losses,
        "ok": all(map(math.isfinite, losses)) and losses[-1] < losses[0],  # the same ids in every step
    }
    if not sizes.on_cpu:
        row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        expected = predict(work.config, work.stepper.rows or work.rows, batch_tokens=work.tokens, fp8=float8)
        row["predicted_gb"] = expected.peak / 1e9  # as it is compiled in parts
    return row
