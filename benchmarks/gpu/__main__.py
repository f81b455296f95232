"""The CUDA path in a few minutes: is it right, how fast is it, and where does its time go.

    python -m benchmarks.gpu --json gpu.json                  # eight minutes on one card
    python -m benchmarks.gpu --minutes 3 --only facts,correct
    python -m benchmarks.gpu --device cpu                     # the same parts, small: do they run?

Parts, the most useful first. Each runs in separate processes with a time limit: a failure or hang costs only that
piece, and unused time goes to the next parts. The file is rewritten after every piece.

    facts    card, driver, torch; speed of matrix products and copies, and time to launch an operation
    correct  attention kernels, loss, gradients, an update, float8 and the KV cache against float64; tests marked `cuda`
    train    steps at the dial's depths, bfloat16 then float8: ms, tokens/s, MFU, memory, seconds to compile
    same     50 steps of the tiny world: the same as on the CPU, and the same when killed and resumed
    decode   the runner with CUDA graphs and without, prompts, the engine: tokens/s, share of the memory's bandwidth
    trace    5 steps under the profiler: time by kind, longest kernels

It runs from a source tree and needs torch 2.11 or newer, numpy, pyarrow, safetensors, tiktoken and rich; nothing else
of nanochat's requirements, no network and no data.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu.running import Row, run_part
from benchmarks.gpu.sizes import Sizes
from benchmarks.result import BenchmarkResult
from nanochat.console import UserError, say

# Shares of the time that the parts before have left.
PARTS = {"facts": 0.05, "correct": 0.3, "train": 0.36, "same": 0.08, "decode": 0.1, "trace": 0.11}
SHOWN = 160  # characters of an error


def main(argv: Sequence[str] | None = None) -> None:
    config = _arguments(argv)
    parts = [name.strip() for name in config.only.split(",") if name.strip()] or list(PARTS)
    if unknown := [name for name in parts if name not in PARTS]:
        raise UserError(f"there is no part {unknown[0]!r}", f"Choose from {', '.join(PARTS)}")
    if not 0 < config.minutes < float("inf"):
        raise UserError(f"--minutes is {config.minutes:g}", "Give a positive number")
    if config.json and not config.json.absolute().parent.is_dir():
        raise UserError(f"the folder of --json={config.json} does not exist", "Make it first")
    if config.device != "cpu":
        _require_card(config.device)
    sizes = Sizes.of(config.device)
    parts = [name for name in PARTS if name in parts]  # the most useful first, whatever the order given
    began = time.monotonic()
    result = BenchmarkResult(
        "gpu", {}, {}, {}, {}, {"device": config.device, "minutes": config.minutes, "parts": parts}
    )
    with tempfile.TemporaryDirectory(prefix="nanochat-gpu-") as folder:
        for number, part in enumerate(parts):
            left = config.minutes * 60 - (time.monotonic() - began)
            share = PARTS[part] / sum(PARTS[name] for name in parts[number:])
            module = f"benchmarks.gpu.{part}"
            names = list(import_module(module).pieces(sizes))
            rows: dict[str, Row] = {}
            result.ours[part] = rows

            def tell(name: str, row: Row, part: str = part, rows: dict[str, Row] = rows) -> None:
                rows[name] = row
                if "error" in row or "ok" in row:
                    result.checks[f"{part}: {name}"] = bool(row.get("ok")) and "error" not in row
                result.write(config.json)
                say(f"[{time.monotonic() - began:4.0f} s] {part:8} {name}: {_shown(row)}")

            run_part(module, config.device, names, left * share, Path(folder), tell)
    result.ours["seconds"] = time.monotonic() - began
    say(f"benchmarks.gpu: {len(parts)} parts in {result.ours['seconds']:.0f} s")
    result.conclude(config.json)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    # argparse, since a bare image has no tyro.
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="wall-clock for all parts together (default: 8)")
    parser.add_argument("--only", default="", metavar="PART,...", help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: small, to see whether it runs")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    return parser.parse_args(argv)


def _require_card(device: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise UserError("this machine has no CUDA GPU that torch can use", "Use --device=cpu for the same parts, small")


def _shown(row: Row) -> str:
    if "error" in row or "not_run" in row:
        return str(row.get("error") or f"not run, {row['not_run']}")[:SHOWN]
    return ", ".join(f"{name} {_cell(value)}" for name, value in row.items() if name not in ("losses", "top_ms"))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_cell(v)}" for name, v in value.items()) + ")"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: "none"}[value]
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
