"""Many clients at once, beside the engine's own batch of the same requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.generate import PROMPT, VOCAB
from benchmarks.result import median
from benchmarks.serve.model import STAGE, words
from benchmarks.serve.server import Server
from benchmarks.serve.wire import HOST
from nanochat.console import Progress

if TYPE_CHECKING:
    from nanochat.inference import Request
    from nanochat.tokenizer import Tokenizer

TEMPLATE = 4  # special tokens around a question
SETTINGS = {"temperature": 1.0, "top_k": 50}
WARM, WARM_TOKENS = 900_000, 8  # the first of the numbers that name questions before the race; their answers' length
RATE, SLOWEST = 0.80, 2.0  # what is promised: of the engine's own speed; last finish over the median


def number(repeat: int, clients: int, client: int) -> int:
    """Names a question. No question is asked twice: its prompt would not be read again."""
    return (repeat * 1000 + clients) * 1000 + client


def numbers(repeat: int, clients: int) -> list[int]:
    return [number(repeat, clients, client) for client in range(clients)]


def http_request(question: int, tokens: int, port: int) -> str:
    """A question as the `openai` client would send it."""
    body = json.dumps(
        {
            "model": "any", "messages": [{"role": "user", "content": words(question, PROMPT - TEMPLATE)}],
            "seed": question, "max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True},
            **SETTINGS,
        }
    )  # fmt: skip
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"


def engine_request(tokenizer: Tokenizer, question: int, tokens: int) -> Request:
    """What the server should make of it."""
    from nanochat.conversation import Conversation
    from nanochat.inference import Request
    from nanochat.tokenizer import render_prompt

    said = {"messages": [{"role": "user", "content": words(question, PROMPT - TEMPLATE)}]}
    prompt = render_prompt(tokenizer, Conversation.from_dict(said))
    assert len(prompt) == PROMPT
    return Request(prompt, tokens, seed=question, **SETTINGS)  # type: ignore[arg-type]


def write_model(base: Path, depth: int) -> None:
    """The model of benchmarks.generate, whose answers never end early."""
    from benchmarks.generate import random_model
    from benchmarks.serve.model import words_tokenizer, write

    write(base, random_model(depth), words_tokenizer(VOCAB))


def own(base: str, counts: list[int], tokens: int, repeat: int) -> dict[str, Any]:
    """For each count: what the engine alone does with that many requests."""
    import time

    os.environ["NANOCHAT_BASE_DIR"] = base
    from nanochat.inference import load_engine
    from nanochat.native import level

    engine, _ = load_engine(STAGE, device="cpu", max_batch=max(counts))
    engine.generate([engine_request(engine.tokenizer, WARM + i, WARM_TOKENS) for i in range(max(counts))])
    found: dict[str, Any] = {"exact": bool(level())}
    for count in counts:
        requests = [engine_request(engine.tokenizer, question, tokens) for question in numbers(repeat, count)]
        began, cpu = time.perf_counter(), time.process_time()
        done = engine.generate(requests)
        found[str(count)] = {
            "seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu,
            "tokens": sum(len(one.ids) for one in done), "texts": [one.text for one in done],
        }  # fmt: skip
    return found


def listen(server: Server, questions: list[int], tokens: int) -> dict[str, Any]:
    """What that many clients get, and the CPU seconds of the server meanwhile."""
    requests = [http_request(question, tokens, server.port) for question in questions]
    job = json.dumps({"host": HOST, "port": server.port, "requests": requests})
    before = server.cpu()
    command = [sys.executable, "-m", "benchmarks.serve.client"]
    done = subprocess.run(command, input=job, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = {**json.loads(done.stdout), "server_cpu_s": server.cpu() - before}
    refused = sorted({answer["status"] for answer in found["answers"]} - {200})
    if refused or any(answer["tokens"] != tokens for answer in found["answers"]):
        got = [answer["tokens"] for answer in found["answers"]]
        raise RuntimeError(f"not all were answered: status {refused}, tokens {got}; {server.said()[-1000:]}")
    return found


def through_server(base: Path, counts: list[int], tokens: int, repeat: int) -> dict[str, Any]:
    """For each count: the same requests from that many clients at once."""
    with Server(base, "--device=cpu", f"--max-batch={max(counts)}") as server:
        listen(server, [WARM + i for i in range(max(counts))], WARM_TOKENS)
        return {str(count): listen(server, numbers(repeat, count), tokens) for count in counts}


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    return {f"p{share}_ms": 1e3 * ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 99)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over runs of one number of clients; percentiles of all of them together."""
    firsts = [answer["at"][0] - answer["sent"] for run in runs for answer in run["answers"]]
    gaps = [b - a for run in runs for answer in run["answers"] for a, b in pairwise(answer["at"])]
    tokens = sum(answer["tokens"] for answer in runs[0]["answers"])
    ends = [[answer["ended"] for answer in run["answers"]] for run in runs]
    events = [sum(len(answer["at"]) for answer in run["answers"]) for run in runs]
    return {
        "tokens": tokens,
        "tokens_per_s": median([tokens / max(ended) for ended in ends]),
        "slowest_of_median": median([max(ended) / median(ended) for ended in ends]),
        "first_token": percentiles(firsts),
        "between_events": percentiles(gaps),
        "tokens_per_event": median([tokens / count for count in events]),
        "server_cpu_s_per_1000_tokens": median([run["server_cpu_s"] * 1000 / tokens for run in runs]),
        "client_cpu_s_per_1000_tokens": median([run["cpu_s"] * 1000 / tokens for run in runs]),
    }


def compare(depth: int, counts: list[int], tokens: int, repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was measured of the server, and of the engine, by number of clients; the engine's has `same` as well:
    whether all answers were the same. The two take turns, each in a new process."""
    mine: dict[str, list[Any]] = {str(count): [] for count in counts}
    engines: dict[str, list[Any]] = {str(count): [] for count in counts}
    exact = True
    with tempfile.TemporaryDirectory(prefix="nanochat-serve-") as folder, Progress(2 * repeats, "race", "runs") as bar:
        call(f"write_model(Path({folder!r}), {depth})")
        for repeat in range(repeats):
            alone = json.loads(call(f"print(json.dumps(own({folder!r}, {counts}, {tokens}, {repeat})))"))
            exact &= alone.pop("exact")
            bar.advance(1)
            served = through_server(Path(folder), counts, tokens, repeat)
            bar.advance(1)
            for count in mine:
                mine[count].append(served[count])
                engines[count].append(alone[count])
    ours, theirs = {}, {}
    for count, runs in mine.items():
        ours[count] = summary(runs)
        pairs = list(zip(runs, engines[count], strict=True))
        same = [[answer["text"] for answer in run["answers"]] == own["texts"] for run, own in pairs]
        theirs[count] = {
            "tokens": engines[count][0]["tokens"],
            "tokens_per_s": median([run["tokens"] / run["seconds"] for run in engines[count]]),
            "cpu_s_per_1000_tokens": median([run["cpu_s"] * 1000 / run["tokens"] for run in engines[count]]),
            "same": all(same) or not exact,
        }
    return ours, theirs


def call(code: str) -> str:
    """Run it in a new process, so that this one holds neither torch nor the model; the last line that it printed."""
    command = [sys.executable, "-c", f"from benchmarks.serve.race import *; {code}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return (done.stdout.strip().splitlines() or [""])[-1]


def show(clients: str, ours: dict[str, Any], engine: dict[str, Any]) -> None:
    first, between = (ours[name] for name in ("first_token", "between_events"))
    print(
        f"{clients:>3} clients  {ours['tokens_per_s']:8,.1f} tok/s  engine alone {engine['tokens_per_s']:8,.1f}  "
        f"ratio {ours['tokens_per_s'] / engine['tokens_per_s']:.2f}  slowest {ours['slowest_of_median']:.2f} x median\n"
        f"             first token p50 {first['p50_ms']:,.0f} ms, p99 {first['p99_ms']:,.0f} ms  "
        f"between events p50 {between['p50_ms']:,.1f} ms, p99 {between['p99_ms']:,.1f} ms, "
        f"{ours['tokens_per_event']:.2f} tokens each\n"
        f"             CPU s per 1,000 tokens: server {ours['server_cpu_s_per_1000_tokens']:.3f}, "
        f"engine alone {engine['cpu_s_per_1000_tokens']:.3f}, clients {ours['client_cpu_s_per_1000_tokens']:.3f}",
        flush=True,
    )
