"""Who multiplies matrices fastest here, in float32 and in the shapes of a training step of depth 4: torch's
own products, those of oneDNN, and numpy's library.

    python -m benchmarks.products            # about a minute: one line for each shape
    python -m benchmarks.products --json products.json

Each turn measures all three, one after another. GFLOP/s are medians over the turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.result import BenchmarkResult, median
from nanochat.console import say

# (tokens, in, out): a layer's own products, its MLP's, the head's on the loss's chunk, and a weight's gradient
SHAPES = ((1024, 256, 256), (1024, 256, 1024), (1024, 1024, 256), (512, 256, 8192), (256, 1024, 1024))


def rate(multiply: Callable[[], object], flops: float, seconds: float) -> float:
    """GFLOP/s."""
    begin, times = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds:
        multiply()
        times += 1
    return flops * times / spent / 1e9


def measure(turns: int, seconds: float, shapes: Sequence[tuple[int, int, int]] = SHAPES) -> BenchmarkResult:
    """ratio: how many times faster than the other torch's own products are."""
    import numpy as np
    import torch

    ours: dict[str, float] = {}
    peers: dict[str, dict[str, float]] = {"oneDNN": {}, "numpy": {}}
    checks = {}
    for tokens, n_in, n_out in shapes:
        x, w = torch.randn(tokens, n_in), torch.randn(n_out, n_in)
        a, b, out = x.numpy(), w.numpy().T, np.empty((tokens, n_out), np.float32)
        ways: dict[str, Callable[[], object]] = {
            "torch": partial(torch.nn.functional.linear, x, w),
            "oneDNN": partial(torch.ops.mkldnn._linear_pointwise, x, w, None, "none", [], ""),
            "numpy": partial(np.matmul, a, b, out=out),
        }
        name = f"{tokens} x {n_in} x {n_out}"
        exact = x.double() @ w.double().T
        results = {way: torch.as_tensor(multiply()).double() for way, multiply in ways.items()}
        checks[f"{name}: equal"] = all(bool((each - exact).abs().max() < 1e-3) for each in results.values())
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(turns):
            for way, multiply in ways.items():
                found[way].append(rate(multiply, 2 * tokens * n_in * n_out, seconds))
        ours[name] = median(found["torch"])
        for way, measured in peers.items():
            measured[name] = median(found[way])
        say(f"  {name:>18}: " + ", ".join(f"{way} {median(rates):.0f}" for way, rates in found.items()) + " GFLOP/s")
    ratio = {way: {name: ours[name] / measured[name] for name in ours} for way, measured in peers.items()}
    settings = {"turns": turns, "seconds": seconds, "threads": torch.get_num_threads()}
    return BenchmarkResult("products", dict(ours), dict(peers), ratio, checks, settings)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each product in a turn")
    parser.add_argument("--json", type=Path, help="write the result here")
    given = parser.parse_args(argv)
    measure(given.turns, given.seconds).conclude(given.json)


if __name__ == "__main__":
    main()
