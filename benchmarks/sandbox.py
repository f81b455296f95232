"""The sandbox and the calculator: programs a second at each level, and the worst of a million expressions.

The programs print one line. The peer is a fresh interpreter for each program (`python -I -S -c`), with no wall at all.
Expressions of any legal size are drawn from the calculator's grammar, and then often damaged. Their time is CPU
time, so that other work on the machine does not count, and memory is what Python allocates (tracemalloc, in a second
calculation).

    python -m benchmarks.sandbox --json result.json
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = "print(sum(range(1000)))"
ANSWER = "499500\n"
FUNCTION = "def total(n): return sum(range(n))"
TEST = "assert total(1000) == 499500"
OPERATORS = ("+", "-", "*", "/", "//", "%", "**", " + ", " * ")
LEAST_RUNS, MOST_SECONDS, MOST_BYTES = 50, 0.05, 1 << 20  # what is promised


@dataclass
class Config:
    runs: int = 200
    """Programs at each level."""
    workers: int = 0
    """Programs at once; 0: as many as there are CPUs."""
    expressions: int = 1_000_000
    """Expressions for the calculator; 0: leave it out."""
    seed: int = 0
    """Seed of the expressions."""
    json: Path | None = None
    """Write the results to this file."""


def rate(work: Callable[[int], bool], runs: int, workers: int) -> float:
    """Calls of `work` a second, `workers` at once; RuntimeError if one went wrong."""
    with ThreadPoolExecutor(workers) as pool:
        began = time.monotonic()
        right = list(pool.map(work, range(runs)))
        seconds = time.monotonic() - began
    if not all(right):
        raise RuntimeError(f"{right.count(False)} of {runs} programs went wrong")
    return runs / seconds


def measure_levels(config: Config, workers: int) -> dict[str, dict[str, float]]:
    """For each level that this system reaches: programs and checks a second, and the time to open."""
    from nanochat.console import UserError, say
    from nanochat.tools.sandbox import Level, Sandbox

    found: dict[str, dict[str, float]] = {}
    for level in sorted(Level, reverse=True):
        began = time.monotonic()
        try:
            with Sandbox(highest=level) as box:
                opening = time.monotonic() - began
                if box.level != level:
                    continue
                rate(lambda _, box=box: box.run(PROGRAM).stdout == ANSWER, 10, workers)  # type: ignore[misc]
                row = {
                    "runs_per_s": rate(lambda _: box.run(PROGRAM).stdout == ANSWER, config.runs, workers),
                    "runs_per_s, one at a time": rate(lambda _: box.run(PROGRAM).stdout == ANSWER, config.runs, 1),
                    "checks_per_s": rate(lambda _: box.check(FUNCTION, "total", TEST).ok, config.runs, workers),
                    "seconds_to_open": opening,
                }
        except UserError:  # the weakest level, as root
            continue
        found[level.name.lower()] = row
        say(
            f"  {level.name.lower():<11} {row['runs_per_s']:6.1f} runs/s on {workers} workers, "
            f"{row['runs_per_s, one at a time']:6.1f} one at a time, {row['checks_per_s']:6.1f} checks/s"
        )
    return found


def fresh_interpreter(_: int) -> bool:
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout == ANSWER


def expressions(count: int, seed: int) -> Iterator[str]:
    """Legal expressions of all sizes, and the same with pieces cut out, doubled, swapped or replaced."""
    rng = random.Random(seed)
    characters = "0123456789.,+-*/%() '\"lencout\n\\_=é٣x"
    for _ in range(count):
        text = _expression(rng, rng.choice((1, 2, 3, 5, 8, 40)))
        if rng.random() < 0.03:  # as much of it as fits
            text = rng.choice(OPERATORS).join([text] * (1 + 900 // len(text)))
        for _ in range(rng.choice((0, 0, 1, 3))):
            a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
            middle = rng.choice(("", text[a:b] * 2, text[a:b][::-1], rng.choice(characters) * rng.choice((1, 2, 50))))
            text = text[:a] + middle + text[b:]
        yield text


def _expression(rng: random.Random, size: int) -> str:
    """About `size` numbers or strings; large ones, which cost most, are as likely as small ones."""
    if size <= 1:
        kind = rng.randrange(8)
        if kind < 3:
            return str(rng.randrange(10 ** rng.choice((1, 2, 5, 30, 300))))
        if kind == 3:
            return f"{rng.randrange(10**6) / 10 ** rng.randrange(6):.{rng.randrange(7)}f}"
        if kind == 4:
            return f"{rng.randrange(1, 100)}**{rng.choice(('', '-'))}{rng.randrange(400)}"
        if kind == 5:
            return f"{rng.randrange(1, 100)}**({rng.randrange(1, 9)}/{rng.randrange(1, 9)})"
        word = "".join(rng.choices("abc ,", k=rng.randrange(rng.choice((5, 400)))))
        return f"len('{word}')" if kind == 6 else f"'{word}'.count('{word[:2] or 'a'}')"
    first = rng.randrange(1, size)
    left, right = _expression(rng, first), _expression(rng, size - first)
    operator = rng.choice(OPERATORS)
    text = f"{left}{operator}{right}"
    return rng.choice((text, text, f"({text})", f"-({text})"))


def measure_calculator(config: Config) -> dict[str, Any]:
    """The worst of all expressions: CPU seconds, and bytes allocated beyond the expression itself."""
    from nanochat.console import Progress
    from nanochat.tools import calculate

    slowest, largest, legal = (0.0, ""), (0, ""), 0
    with Progress(config.expressions, "calculator", "expressions") as bar:
        for text in expressions(config.expressions, config.seed):
            began = time.thread_time()
            legal += calculate(text) is not None
            slowest = max(slowest, (time.thread_time() - began, text))
            tracemalloc.start()
            calculate(text)
            largest = max(largest, (tracemalloc.get_traced_memory()[1], text))
            tracemalloc.stop()
            bar.advance(1)
    return {
        "expressions": config.expressions,
        "legal": legal,
        "slowest_ms": 1000 * slowest[0],
        "slowest": slowest[1],
        "largest_bytes": largest[0],
        "largest": largest[1],
    }


def run(config: Config) -> None:
    from benchmarks.result import BenchmarkResult
    from nanochat.console import say
    from nanochat.machine import cpu_count

    workers = config.workers or cpu_count()
    ours: dict[str, Any] = {"levels": measure_levels(config, workers)}
    bare = rate(fresh_interpreter, config.runs, workers)
    say(f"  a fresh interpreter for each, without walls: {bare:6.1f} runs/s on {workers} workers")
    best = next(iter(ours["levels"].values()))
    checks = {f"at least {LEAST_RUNS} runs a second at the best level": best["runs_per_s"] >= LEAST_RUNS}
    if config.expressions:
        ours["calculator"] = found = measure_calculator(config)
        checks["every expression within 50 ms"] = found["slowest_ms"] <= 1000 * MOST_SECONDS
        checks["every expression within 1 MB"] = found["largest_bytes"] <= MOST_BYTES
        say(
            f"  calculator: {found['expressions']:,} expressions, {found['legal']:,} of them legal, "
            f"slowest {found['slowest_ms']:.2f} ms, largest {found['largest_bytes'] / 1024:.0f} KiB"
        )
    ratio = {"fresh interpreter": {"speed": best["runs_per_s"] / bare}}
    settings = {"runs": config.runs, "workers": workers, "seed": config.seed}
    peers = {"fresh interpreter": {"runs_per_s": bare}}
    BenchmarkResult("sandbox", ours, peers, ratio, checks, settings).conclude(config.json)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.sandbox")
