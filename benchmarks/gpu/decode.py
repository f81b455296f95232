"""Decoding by the engine, with all rows samples of one request: tokens a second, and share of memory bandwidth."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.facts import bandwidth
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import wait_for

if TYPE_CHECKING:
    from nanochat.inference import Engine


def pieces(sizes: Sizes) -> dict[str, Callable[[], dict[str, Any]]]:
    return {
        f"d{depth} batch {batch}": partial(decode, sizes, depth, batch)
        for depth in sizes.decode_depths
        for batch in sizes.decode_batches
    }


@functools.lru_cache(maxsize=1)
def _engine(sizes: Sizes, depth: int) -> Engine:
    """A model of random weights that never ends an answer."""
    import torch

    from nanochat.inference import Engine
    from nanochat.model import GPT, ModelConfig
    from nanochat.tokenizer import Tokenizer

    machine = sizes.machine()
    config = ModelConfig.from_depth(depth, sizes.vocab, sizes.seq_len)
    model = GPT(config, machine.dtype).init_weights(0).to(machine.device).to(machine.dtype).eval()
    engine = Engine(model, Tokenizer({bytes([byte]): byte for byte in range(256)}), max(sizes.decode_batches))
    for penalty in engine.penalties.values():
        penalty[256:] = -torch.inf
    return engine


def decode(sizes: Sizes, depth: int, batch: int) -> dict[str, Any]:
    """bytes_per_step: the matrices, and the keys and values seen on average; of_bandwidth: relative to a copy's."""
    from nanochat.inference import Request

    engine = _engine(sizes, depth)
    model = engine.model
    prompt = [byte % 256 for byte in range(sizes.decode_prompt)]

    def run(tokens: int) -> float:
        wait_for(sizes.device)
        began = time.perf_counter()
        done = engine.generate([Request(prompt, max_tokens=tokens, n=batch)])
        wait_for(sizes.device)
        assert all(len(sample.ids) == tokens for sample in done)
        return time.perf_counter() - began

    run(2)
    # The difference leaves the prompt out.
    seconds = run(sizes.decode_tokens + 1) - run(1)
    step = seconds / sizes.decode_tokens
    size = model.head.weight.element_size()
    matrices = sum(p.numel() for p in [*model.blocks.parameters(), model.head.weight]) * size
    seen = sizes.decode_prompt + sizes.decode_tokens / 2
    c = model.config
    moved = matrices + batch * seen * 2 * c.depth * c.kv_heads * c.head_dim * size
    return {
        "tokens_per_s": batch / step,
        "ms": step * 1e3,
        "bytes_per_step": moved,
        "of_bandwidth": moved / step / bandwidth(sizes),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
