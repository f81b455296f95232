"""Who multiplies matrices fastest here, in float32 and in the shapes of a training step of depth 4: torch's
own products, those of oneDNN, numpy's library, and our native code.

    python -m benchmarks.products            # about three minutes: a line for each product
    python -m benchmarks.products --json products.json

Each library has processes of its own, in turns: for some time after a product its threads wait for the next one at
full speed, and would take the cores from another library in the same process. GFLOP/s are medians over the turns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.result import BenchmarkResult, median
from nanochat.console import say
from nanochat.model.product import product
from nanochat.native import has_native

# (tokens, in, out): a layer's own products, queries with keys and values, its MLP's, and the head's on the loss's chunk
SHAPES = ((2048, 256, 256), (2048, 256, 768), (2048, 256, 1024), (2048, 1024, 256), (512, 256, 8192))
LIBRARIES = ("torch", "oneDNN", "numpy", "native")


def rate(multiply: Callable[[], object], flops: float, seconds: float) -> float:
    """GFLOP/s."""
    multiply()
    begin, times = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds:
        multiply()
        times += 1
    return flops * times / spent / 1e9


def products(library: str, x: Any, w: Any, grad: Any) -> dict[str, Callable[[], Any]]:
    """x (tokens, in), w (out, in) and grad (tokens, out), tensors -> a layer's three products, as a step has them."""
    if library == "torch":
        return {"outputs": lambda: x @ w.t(), "to inputs": lambda: grad @ w, "to weights": lambda: grad.t() @ x}
    if library == "oneDNN":

        def linear(a: Any, b: Any) -> Any:
            """a times b transposed; it copies what does not lie as it wants."""
            return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")

        return {
            "outputs": lambda: linear(x, w),
            "to inputs": lambda: linear(grad, w.t()),
            "to weights": lambda: linear(grad.t(), x.t()),
        }
    if library == "native":
        return {
            "outputs": lambda: product(x, w, turned=True),
            "to inputs": lambda: product(grad, w),
            "to weights": lambda: product(grad.t(), x),  # with a copy; trainings leave this one to torch
        }
    a, b, g = x.numpy(), w.numpy(), grad.numpy()
    out, to_a, to_b = (np.empty(shape, np.float32) for shape in (g.shape, a.shape, b.shape))
    return {
        "outputs": lambda: np.matmul(a, b.T, out=out),
        "to inputs": lambda: np.matmul(g, b, out=to_a),
        "to weights": lambda: np.matmul(g.T, a, out=to_b),
    }


def measure_one(library: str, seconds: float, shapes: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """GFLOP/s and the largest error of every product, by name."""
    rates, errors = {}, {}
    for tokens, n_in, n_out in shapes:
        draw = torch.Generator().manual_seed(0)
        x, w, g = (torch.randn(s, generator=draw) for s in ((tokens, n_in), (n_out, n_in), (tokens, n_out)))
        shape = f"{tokens} x {n_in} x {n_out}"
        ways = products(library, x, w, g)
        for name, multiply in ways.items():
            rates[f"{shape} {name}"] = rate(multiply, 2 * tokens * n_in * n_out, seconds)
        for name, exact in products("torch", x.double(), w.double(), g.double()).items():
            error = (torch.as_tensor(ways[name]()).double() - exact()).abs().max()
            errors[f"{shape} {name}"] = float(error)
    return {"rates": rates, "errors": errors, "threads": torch.get_num_threads()}


def measure(turns: int, seconds: float, shapes: Sequence[tuple[int, int, int]] = SHAPES) -> BenchmarkResult:
    """ratio: how many times faster than the other torch's own products are."""
    here = has_native(torch.float32, torch.device("cpu"))
    libraries = [library for library in LIBRARIES if here or library != "native"]
    found: dict[str, list[dict[str, Any]]] = {library: [] for library in libraries}
    for _ in range(turns):
        for library, runs in found.items():
            call = f"measure_one({library!r}, {seconds}, {shapes})"
            code = f"import json; from benchmarks.products import *; print(json.dumps({call}))"
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    names = list(found["torch"][0]["rates"])
    rates = {
        library: {name: median([run["rates"][name] for run in runs]) for name in names}
        for library, runs in found.items()
    }
    for name in names:
        say(f"  {name:>31}: " + ", ".join(f"{who} {rates[who][name]:.0f}" for who in libraries) + " GFLOP/s")
    ours = rates.pop("torch")
    ratio = {library: {name: ours[name] / other[name] for name in names} for library, other in rates.items()}
    checks = {
        f"{name}: equal": all(r["errors"][name] < 1e-2 for runs in found.values() for r in runs) for name in names
    }
    settings = {"turns": turns, "seconds": seconds, "threads": found["torch"][0]["threads"]}
    return BenchmarkResult("products", ours, dict(rates), ratio, checks, settings)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each product in a turn")
    parser.add_argument("--json", type=Path, help="write the result here")
    given = parser.parse_args(argv)
    measure(given.turns, given.seconds).conclude(given.json)


if __name__ == "__main__":
    main()
