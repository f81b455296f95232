"""Decoding: tokens a second, and share of memory bandwidth.

By the runner alone, with CUDA graphs and without, and by the engine, with all rows samples of one request.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.facts import bandwidth
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import seconds_of, wait_for

if TYPE_CHECKING:
    from nanochat.inference import Engine
    from nanochat.inference.torch_runner import TorchRunner
    from nanochat.model import GPT

WARM = 3  # steps that do not count


def pieces(sizes: Sizes) -> dict[str, Callable[[], dict[str, Any]]]:
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for depth in sizes.decode_depths:
        found[f"d{depth} recorded"] = partial(recorded, sizes, depth)
        for rows in sizes.decode_rows:
            for graphs in (True, False):
                found[f"d{depth} rows {rows} {'recorded' if graphs else 'plain'}"] = partial(
                    steps, sizes, depth, rows, graphs
                )
        found[f"d{depth} prefill"] = partial(prefill, sizes, depth)
        for batch in sizes.decode_batches:
            found[f"d{depth} batch {batch}"] = partial(decode, sizes, depth, batch)
    return found


@functools.lru_cache(maxsize=1)
def _model(sizes: Sizes, depth: int) -> GPT:
    """Of random weights, none of them 0."""
    import torch

    from nanochat.model import GPT, ModelConfig

    machine = sizes.machine()
    config = ModelConfig.from_depth(depth, sizes.vocab, sizes.seq_len)
    model = GPT(config, machine.dtype).init_weights(0).to(machine.device)
    g = torch.Generator(machine.device).manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g, device=p.device) * 0.02)
    return model.to(machine.dtype).eval()


@functools.lru_cache(maxsize=1)
def _engine(sizes: Sizes, depth: int) -> Engine:
    """One that never ends an answer."""
    import torch

    from nanochat.inference import Engine
    from nanochat.tokenizer import Tokenizer

    engine = Engine(_model(sizes, depth), Tokenizer({bytes([b]): b for b in range(256)}), max(sizes.decode_batches))
    for penalty in engine.penalties.values():
        penalty[256:] = -torch.inf
    return engine


def _runner(sizes: Sizes, depth: int, rows: int, graphs: bool, prompt: list[int]) -> TorchRunner:
    """All its slots hold the prompt."""
    from nanochat.inference.runner import Chunk
    from nanochat.inference.torch_runner import TorchRunner

    runner = TorchRunner(_model(sizes, depth), "auto" if graphs else None)
    runner.grow(rows, len(prompt) + sizes.decode_tokens + WARM)
    runner.step([Chunk(0, 0, prompt, -1)])
    runner.copy(0, range(1, rows), len(prompt))
    return runner


def _prompt(sizes: Sizes) -> list[int]:
    return [byte % 256 for byte in range(sizes.decode_prompt)]


def recorded(sizes: Sizes, depth: int) -> dict[str, Any]:
    """Logits of recorded steps, of plain ones, and of whole passes through the model, of rows at different places.

    between: largest difference of a logit, recorded and plain. paged: whether FlashAttention reads the cache's pages.
    """
    import torch

    from benchmarks.gpu.correct import WHOLE, distance
    from nanochat.inference.runner import Chunk

    prompt, rows, length = _prompt(sizes), max(sizes.decode_rows), 6
    both = [_runner(sizes, depth, rows, graphs, prompt) for graphs in (True, False)]
    held = [prompt[: len(prompt) - row] for row in range(rows)]
    found: list[list[torch.Tensor]] = [[], []]
    for number in range(length):
        # Fewer rows in every step, and in another order: those that fill up must not matter.
        chunks = [Chunk(row, len(held[row]), [number + row], held[row][-1]) for row in reversed(range(rows - number))]
        for logits, runner in zip(found, both, strict=True):
            logits.append(runner.step(chunks).clone())
        for chunk in chunks:
            held[chunk.slot].append(chunk.ids[0])
    model = _model(sizes, depth)
    with torch.no_grad():  # the first row took part in every step, as the last of it
        whole = model(torch.tensor([held[0]], device=model.device))[0, -length:]
    exact = distance(torch.stack([logits[-1] for logits in found[0]]), whole)
    between = max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))
    spread = float(whole.abs().max())
    return {
        "ok": exact <= WHOLE and between <= WHOLE * spread,
        "distance": exact,
        "between": between,
        "largest_logit": spread,
        "tolerance": WHOLE,
        "recordings": both[0].recordings,
        "paged": both[0].cache.paged,
    }


def steps(sizes: Sizes, depth: int, rows: int, graphs: bool) -> dict[str, Any]:
    """Steps of the runner: one token for every row, without sampling. of_bandwidth: relative to a copy's."""
    from nanochat.inference.measuring import bytes_read
    from nanochat.inference.runner import Chunk

    prompt = _prompt(sizes)
    runner = _runner(sizes, depth, rows, graphs, prompt)

    def run(first: int, count: int) -> float:
        wait_for(sizes.device)
        began = time.perf_counter()
        for place in range(first, first + count):
            runner.step([Chunk(row, place, [row % 256], 0) for row in range(rows)])
        wait_for(sizes.device)
        return time.perf_counter() - began

    warm = run(len(prompt), WARM)
    step = run(len(prompt) + WARM, sizes.decode_tokens) / sizes.decode_tokens
    moved = bytes_read(runner.model, rows, len(prompt) + WARM + sizes.decode_tokens / 2)
    return {
        "tokens_per_s": rows / step,
        "ms": step * 1e3,
        "of_bandwidth": moved / step / bandwidth(sizes),
        "first_steps_s": warm,
        "recordings": runner.recordings,
        "paged": runner.cache.paged,
    }


def prefill(sizes: Sizes, depth: int) -> dict[str, Any]:
    """Tokens a second of one prompt of the whole context, in the runner's pieces; mfu: of the bfloat16 peak."""
    from nanochat.inference.measuring import prefill_flops
    from nanochat.inference.runner import Chunk
    from nanochat.machine import peak_flops

    runner = _runner(sizes, depth, 1, False, _prompt(sizes))
    prompt = [place % 256 for place in range(sizes.seq_len)]
    runner.grow(1, len(prompt))

    def run() -> None:
        for start in range(0, len(prompt), runner.chunk):
            runner.step([Chunk(0, start, prompt[start : start + runner.chunk], prompt[start - 1] if start else -1)])

    seconds = seconds_of(run, sizes.device, 3, 3)
    flops = prefill_flops(runner.model.config, len(prompt))
    return {
        "tokens_per_s": len(prompt) / seconds,
        "ms": seconds * 1e3,
        "mfu": flops / seconds / peak_flops(sizes.machine()),
        "tokens": len(prompt),
        "piece": runner.chunk,
    }


def decode(sizes: Sizes, depth: int, batch: int) -> dict[str, Any]:
    """bytes_per_step: the matrices, and the keys and values seen on average; of_bandwidth: relative to a copy's."""
    from nanochat.inference import Request
    from nanochat.inference.measuring import bytes_read

    engine = _engine(sizes, depth)
    model = engine.model
    prompt = _prompt(sizes)

    def run(tokens: int) -> float:
        wait_for(sizes.device)
        began = time.perf_counter()
        done = engine.generate([Request(prompt, max_tokens=tokens, n=batch)])
        wait_for(sizes.device)
        assert all(len(sample.ids) == tokens for sample in done)
        return time.perf_counter() - began

    run(2)
    # The difference leaves the prompt out.
    step = (run(sizes.decode_tokens + 1) - run(1)) / sizes.decode_tokens
    moved = bytes_read(model, batch, sizes.decode_prompt + sizes.decode_tokens / 2)
    return {
        "tokens_per_s": batch / step,
        "ms": step * 1e3,
        "bytes_per_step": moved,
        "of_bandwidth": moved / step / bandwidth(sizes),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
