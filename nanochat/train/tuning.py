"""Sizes that suit this processor, found by trying them before a training begins.

How fast a CPU computes depends on how much it computes at once: small pieces stay in its caches, large ones keep its
cores busy, and where the one outweighs the other differs between processors and libraries. The sizes change nothing
but the rounding. A run keeps those that it began with, so that it goes on with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from nanochat.console import Progress, say
from nanochat.machine import Machine
from nanochat.model import GPT
from nanochat.model.attention import LONGEST
from nanochat.model.blocked import BLOCK, blocked
from nanochat.model.loss import chunk_rows, linear_cross_entropy
from nanochat.model.product import product
from nanochat.native import forget_workers, has_native, level
from nanochat.optim import Optimizer
from nanochat.train.config import TrainConfig
from nanochat.train.fitting import choose_rows, fit_rows
from nanochat.train.state import TrainState
from nanochat.train.step import no_memory

TRIES = 3  # of each size, in turns; the least time counts
FASTER = 0.97  # of the usual size's time, at most, for another one: less may be noise
SLOW = 1.0  # seconds of a pass; where it takes longer, its products are large, and trying would take too long
FAST = ("avx2",)  # instructions with which native code is usual: on AMD's Zen 3, training steps were faster with it
WORTH = 1000  # passes that a training must have for all this to pay off: trying takes as long as some 15
MOST = 1 << 31  # of a kept size: a file may say anything


@dataclass(frozen=True)
class Sizes:
    """rows: sequences in a forward pass. chunk: positions whose logits exist at once. block: queries whose attention is
    computed at once. A chunk or a block of 0: in native code, which has its own. products: 0 if native code multiplies
    the layers' matrices, 1 if torch does."""

    rows: int
    chunk: int
    block: int
    products: int

    def apply(self, model: GPT) -> None:
        model.loss_chunk, model.native_loss = self.chunk, not self.chunk
        model.use_native_products(not self.products)
        for layer in model.layers:
            layer.attn.block = self.block


def usual_sizes(model: GPT, rows: int) -> Sizes:
    """Where nothing is tried. rows: sequences in a forward pass."""
    if has_native(model.dtype, model.head.weight.device) and level() in FAST:
        return Sizes(rows, 0, 0, 0)
    return torchs_sizes(model, rows)


def torchs_sizes(model: GPT, rows: int) -> Sizes:
    """Without native code."""
    return Sizes(rows, chunk_rows(model.config.vocab_size, model.head.weight.device), BLOCK, 1)


def suited(
    plan: TrainState,
    model: GPT,
    loss: Callable[..., Tensor],
    optimizer: Optimizer,
    total_rows: int,
    config: TrainConfig,
    machine: Machine,
) -> tuple[TrainState, int]:
    """The plan with its sizes, and the sequences in a forward pass; the model uses the other sizes from now on.

    total_rows: sequences of a step. loss: of the model, compiled or not. The time that trying takes is the training's.
    On a GPU its memory decides. Several ranks share one machine's caches in ways that trying would not show: they use
    what is usual. Every rank calls it.
    """
    rows, given = fit_rows(model, total_rows, config, machine), config.device_batch_size
    if machine.device.type != "cpu":
        return plan, rows
    if plan.step or plan.sizes:
        sizes = torchs_sizes(model, rows)  # of runs that were begun before any were noted
        least = {"rows": 1, "chunk": 0, "block": 0, "products": 0}
        kept = {name: min(max(low, plan.sizes[name]), MOST) for name, low in least.items() if name in plan.sizes}
        sizes = replace(sizes, **kept)
    else:
        sizes = usual_sizes(model, rows)
        noted = {"chunk", "block", "products"}
        if may_try(plan, total_rows // rows, config, machine):
            most = rows if given else choose_rows(total_rows, model.config.shape, 2 * rows, machine)
            began = time.monotonic()
            sizes = fastest_sizes(model, loss, optimizer.clear, sizes, most)
            plan = replace(plan, seconds=plan.seconds + time.monotonic() - began)
            if not given:  # what was asked for is not the run's for ever
                noted.add("rows")
        plan = replace(plan, sizes={name: size for name, size in asdict(sizes).items() if name in noted})
    sizes.apply(model)
    return plan, choose_rows(total_rows, model.config.shape, given or sizes.rows, machine)


def may_try(plan: TrainState, passes: int, config: TrainConfig, machine: Machine) -> bool:
    """passes: of a step."""
    return plan.steps * passes >= WORTH and machine.ranks.world == 1 and not config.deterministic


def fastest_sizes(
    model: GPT, loss: Callable[..., Tensor], clear: Callable[[], None], sizes: Sizes, most_rows: int
) -> Sizes:
    """Sizes that are faster than the given ones here, of the few that may be; the given ones otherwise, or when memory
    runs out.

    clear: zeroes the gradients. most_rows: sequences in a forward pass, at most. Logits, attention and products are
    tried by themselves, since each is a small part of a pass, and then whole passes.
    """
    c, draw = model.config, torch.Generator().manual_seed(0)
    positions = most_rows * c.seq_len
    attention = [layer.attn for layer in model.layers]
    native = [0] * has_native(model.dtype, model.head.weight.device)
    small = chunk_rows(c.vocab_size, model.head.weight.device)
    larger = [n for n in (2 * small, 4 * small) if n < 2 * positions]
    chunks = list(dict.fromkeys([sizes.chunk, *native, small, *larger]))
    in_blocks = attention[0].backend in (None, "blocked") and BLOCK // 2 < c.seq_len <= LONGEST
    blocks = list(dict.fromkeys([sizes.block] + [*native, BLOCK, BLOCK // 2] * in_blocks))
    products = list(dict.fromkeys([sizes.products, *native, 1]))
    passes = [sizes.rows] + [most_rows] * (most_rows > sizes.rows)
    tries = (1 + TRIES) * sum(len(each) for each in (chunks, blocks, products, passes) if len(each) > 1)
    if not tries:
        return sizes
    n = min(positions, max(chunks))
    h = torch.randn((n, c.width), generator=draw).to(model.dtype)
    targets = torch.randint(0, c.vocab_size, (n,), generator=draw)
    ids = torch.randint(0, c.vocab_size, (most_rows, c.seq_len), generator=draw)
    shape = (sizes.rows, c.heads, c.seq_len, c.head_dim)
    q, k, v = (torch.randn(shape, generator=draw).to(model.dtype).requires_grad_() for _ in range(3))

    @torch.no_grad()
    def head(chunk: int) -> None:
        linear_cross_entropy(h, model.head.weight, targets, c.softcap, model._slopes, chunk, in_native=not chunk)

    def attend(block: int) -> None:
        for layer in attention[:4]:  # the default pattern of windows is as long
            y = blocked(q, k, v, layer.window, layer.scale, block, layer.parts)
            torch.autograd.grad(y, (q, k, v), y.detach())

    x = torch.randn((sizes.rows * c.seq_len, c.width), generator=draw).to(model.dtype)
    up = model.layers[0].mlp.up.weight

    @torch.no_grad()
    def multiply(products: int) -> None:
        """As the MLP does forward, and backward for the gradient by x."""
        if products:
            (x @ up.mT) @ up
        else:
            product(product(x, up, turned=True), up)

    def take(rows: int) -> None:
        part = ids[:rows]
        loss(part, part, reduction="sum").backward()
        clear()

    found = sizes
    try:
        with Progress(tries, "sizes", "tries") as bar:
            found = Sizes(
                sizes.rows, fastest(chunks, head, bar), fastest(blocks, attend, bar), fastest(products, multiply, bar)
            )
            found.apply(model)
            if len(passes) > 1:
                take(sizes.rows)  # compiles
                began = time.perf_counter()
                take(sizes.rows)
                if time.perf_counter() - began < SLOW:
                    found = replace(found, rows=fastest(passes, take, bar, weight=lambda rows: rows))
    except (RuntimeError, MemoryError) as error:
        if not no_memory(error):
            raise
        clear()
        say("memory ran out while sizes were tried: the usual ones")
        return sizes
    if found.chunk or found.block or found.products:
        forget_workers()  # whose memory may be used no more
    say(
        f"sizes for this processor: {found.rows} x {c.seq_len} tokens in a pass, "
        f"logits of {found.chunk or 'native code'}, attention of {found.block or 'native code'}, "
        f"products of {'torch' if found.products else 'native code'}"
    )
    return found


def fastest(
    sizes: Sequence[int],
    run: Callable[[int], object],
    bar: Progress | None = None,
    weight: Callable[[int], float] = lambda size: 1,
) -> int:
    """The size that `run` takes the least time with; the first one unless another one is faster by more than noise.

    weight: how much a size does at once.
    """
    if len(sizes) < 2:
        return sizes[0]
    least = dict.fromkeys(sizes, float("inf"))
    for turn in range(1 + TRIES):
        for size in sizes:
            began = time.perf_counter()
            run(size)
            if turn:  # the first one compiles, and fills caches
                least[size] = min(least[size], (time.perf_counter() - began) / weight(size))
            if bar:
                bar.advance(1)
    best = min(sizes, key=lambda size: least[size])
    return best if least[best] < FASTER * least[sizes[0]] else sizes[0]
