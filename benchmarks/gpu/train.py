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
RACED = 65536  # tokens whose loss is raced


def pieces(sizes: Sizes) -> dict[str, Callable[[], dict[str, Any]]]:
    """First a model compiled as a whole, as in GPU trainings, which took a minute on an H100; then models compiled in
    parts, the largest first; then the rest."""
    first = sizes.depths[0]
    found: dict[str, Callable[[], dict[str, Any]]] = {f"d{first} bf16": partial(step, sizes, first)}
    race = {"loss beside Liger's": partial(loss_race, sizes)}
    if sizes.on_cpu:  # whose parts are compiled to machine code, which takes longer than a test may
        return {**found, **{f"d{depth} fp8": partial(step, sizes, depth, True) for depth in sizes.depths[-1:]}, **race}
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
    return {**found, **race}


def loss_race(sizes: Sizes) -> dict[str, Any]:
    """Head and cross-entropy of a pass at the first depth, forward and backward: ms, and GB above what is held before.

    Liger's fused loss (https://arxiv.org/abs/2410.10989) where liger-kernel is installed, which needs Triton. Its
    weights are cast beforehand, as it wants them in the states' dtype.
    """
    import torch

    from benchmarks.gpu.timing import seconds_of
    from nanochat.model import linear_cross_entropy
    from nanochat.scale import shape

    width = shape(sizes.depths[0], sizes.vocab, sizes.seq_len).width
    n = sizes.batch or RACED
    g = torch.Generator().manual_seed(0)
    h = torch.randn(n, width, generator=g).to(sizes.device, torch.bfloat16).requires_grad_()
    w = (torch.randn(sizes.vocab, width, generator=g) * 0.02).to(sizes.device).requires_grad_()
    targets = torch.randint(0, sizes.vocab, (n,), generator=g).to(sizes.device)
    compiled = torch.compile(linear_cross_entropy, dynamic=False, backend=sizes.compiler)
    runners: dict[str, Callable[[], Any]] = {"ours": lambda: compiled(h, w, targets, 15.0)}
    row: dict[str, Any] = {"tokens": n, "width": width, "liger": "not installed"}
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        pass
    else:
        theirs = LigerFusedLinearCrossEntropyLoss(ignore_index=-1, reduction="sum", softcap=15.0)
        row["liger"] = "here"
        runners["liger"] = lambda: theirs(w.bfloat16(), h, targets)
    values = {}
    for name, run in runners.items():

        def work(run: Callable[[], Any] = run) -> Any:
            total = run()
            torch.autograd.grad(total, (h, w))
            return total

        values[name] = float(work().detach())
        if not sizes.on_cpu:
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            work()
            row[f"{name}_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
        row[f"{name}_ms"] = 1e3 * seconds_of(work, sizes.device, repeats=3, calls=1 if sizes.on_cpu else 5)
    row["ok"] = all(abs(value / values["ours"] - 1) < 0.01 for value in values.values())
    return row


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


def run_on(work: Work, sizes: Sizes, first: int) -> dict[str, Any]:
    """Steps as a training takes them, whose outcomes are read one step later: ms of a step of `passes` passes, and how
    often torch says that the host waited for the card in a step."""
    import warnings

    import torch

    from nanochat.optim import Schedule

    told = None
    wait_for(sizes.device)
    if not sizes.on_cpu:
        torch.cuda.set_sync_debug_mode("warn")
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number in range(first, first + sizes.steps):
            taken = work.stepper.begin(work.batch, work.batch.valid, Schedule.pretraining(1000), number)
            if told:
                told.read()
            told = taken
    if not sizes.on_cpu:
        torch.cuda.set_sync_debug_mode("default")
    wait_for(sizes.device)
    waits = sum("synchroniz" in str(one.message) for one in warned)
    return {"run_on_ms": 1e3 * (time.perf_counter() - began) / sizes.steps, "waits": waits / sizes.steps}


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
    work.optimizer.step = update  # type: ignore[method-assign]
    return {**row, **run_on(work, sizes, len(losses))}
