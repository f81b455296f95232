"""The server with many clients at once beside its own engine, or under attack.

The race: a model with random weights is served by `nanochat serve`. A process of its own is 64 clients (and 8, and 1)
that ask at the same moment over /v1/chat/completions, each its own question of 128 tokens, for streamed answers of 256.
The engine alone gets the same requests as one batch, in a process without a server. Both draw from the 50 likeliest
tokens at temperature 1 with the same seeds, so the answers must be the same ones. (Not to be
run with real-time priority, `chrt -f`: the server's event loop would wait for the threads that compute; `nice` does.)

--hostile: a tiny model is served. For ten minutes clients send what no client should, leave at any moment, do not read,
or ask for more than there is, and schemathesis sends what the OpenAPI schema allows and forbids. Well-behaved clients
ask meanwhile, and must get the answers of a quiet server. In the end the server is told to stop while it answers.

    python -m benchmarks.serve --json result.json
    python -m benchmarks.serve --depth 4 --clients 64 --repeats 1
    python -m benchmarks.serve --hostile --minutes 10 --cases 10000 --json result.json
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Config:
    depth: int = 12
    """Layers of the model in the race."""
    clients: tuple[int, ...] = (64, 8, 1)
    """How many ask at once, one race each."""
    tokens: int = 256
    """Tokens of an answer in the race."""
    repeats: int = 3
    """Races of each, in turns."""
    hostile: bool = False
    """Attack a server instead."""
    minutes: float = 10.0
    """How long."""
    cases: int = 10_000
    """Cases that schemathesis makes of the OpenAPI schema; 0: none."""
    seed: int = 0
    """Decides on the attacks."""
    json: Path | None = None
    """Write the results to this file."""


def race(config: Config) -> None:
    from benchmarks.generate import PROMPT, SEQ_LEN, VOCAB
    from benchmarks.result import BenchmarkResult
    from benchmarks.serve.race import RATE, SETTINGS, SLOWEST, compare, show
    from nanochat.console import UserError

    if config.depth < 1 or config.repeats < 1 or not config.clients or not all(1 <= n <= 512 for n in config.clients):
        raise UserError(
            "nothing can be measured so", "Give --depth and --repeats of 1 or more, --clients from 1 to 512"
        )
    if not 2 <= config.tokens <= SEQ_LEN - PROMPT:
        raise UserError(f"--tokens is {config.tokens}", f"Give a number from 2 to {SEQ_LEN - PROMPT}")
    ours, engine = compare(config.depth, list(config.clients), config.tokens, config.repeats)
    ratio: dict[str, float] = {}
    checks: dict[str, bool] = {}
    for count, mine in ours.items():
        own = engine[count]
        show(count, mine, own)
        ratio[f"speed {count}"] = mine["tokens_per_s"] / own["tokens_per_s"]
        ratio[f"cpu {count}"] = own["cpu_s_per_1000_tokens"] / mine["server_cpu_s_per_1000_tokens"]
        checks[f"{count}: the engine's own answers"] = own.pop("same") and own["tokens"] == mine["tokens"]
    many = str(max(config.clients))
    checks[f"{many}: at least {RATE:.0%} of the engine's own speed"] = ratio[f"speed {many}"] >= RATE
    checks[f"{many}: the slowest within {SLOWEST:g} times the median"] = ours[many]["slowest_of_median"] < SLOWEST
    settings: dict[str, Any] = {"depth": config.depth, "vocab": VOCAB, "prompt": PROMPT, "tokens": config.tokens}
    settings |= {"repeats": config.repeats, **SETTINGS}
    peers, ratios = {"engine alone": engine}, {"engine alone": ratio}
    BenchmarkResult("serve", ours, peers, ratios, checks, settings).conclude(config.json)


def survive(config: Config) -> None:
    from benchmarks.result import BenchmarkResult
    from benchmarks.serve.hostile import attacked, show
    from nanochat.console import UserError

    if not config.minutes > 0 or config.cases < 0:
        raise UserError("nothing can be attacked so", "Give --minutes above 0, and --cases of 0 or more")
    found, checks = attacked(config.minutes, config.cases, config.seed)
    show(found)
    settings = {"minutes": config.minutes, "cases": config.cases, "seed": config.seed}
    BenchmarkResult("serve --hostile", found, {}, {}, checks, settings).conclude(config.json)


def run(config: Config) -> None:
    from nanochat.console import UserError

    if sys.platform != "linux":
        raise UserError("a server is measured from outside in ways that only Linux has", "Run it on Linux")
    (survive if config.hostile else race)(config)


if __name__ == "__main__":
    from nanochat.console import run_command

    run_command(Config, run, description=__doc__, prog="python -m benchmarks.serve")
