"""A server under attack: what well-behaved clients see of it, and what is left of it afterwards."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.result import median
from benchmarks.serve import wire
from benchmarks.serve.attacks import GROUPS, attack
from benchmarks.serve.good import Heard, behave, learn, together
from benchmarks.serve.questions import Question, ask, long_questions
from benchmarks.serve.race import call
from benchmarks.serve.server import Server
from benchmarks.serve.target import Target
from nanochat.console import Progress

KEY = "a-key-that-nobody-guesses"
CLIENTS = 3  # well-behaved ones, each with an address of its own
DRAINED = 16  # answers that run when the server is told to stop
LEFT = 32  # answers that are left in the middle
FOR_NOBODY = 100  # tokens that each of them may still get; it would be several times as many
EMPTY = 60.0  # seconds until nothing may run or wait any more
LOOK = 0.2  # seconds between two looks at whether it is over
SAMPLE = 0.5  # seconds between two looks at the memory
WARM = 0.25  # of the time: there are twice as many attackers, and the memory does not count
LONG = 10.0  # minutes from which on it must be flat: it takes minutes to meet the worst that can come together
GROWTH = 32 << 20  # bytes that its memory may differ by between the beginning and the end of what counts


@dataclass
class Watch:
    """Looks at a server's memory again and again until it is told to end."""

    server: Server
    samples: list[int] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.ended.wait(SAMPLE):
            self.samples.append(self.server.memory())

    @property
    def growth(self) -> float:
        """Bytes, from the first fifth of what counts to the last, both in the middle."""
        counted = self.samples[int(len(self.samples) * WARM) :] or [0]
        fifth = max(1, len(counted) // 5)
        return median(counted[-fifth:]) - median(counted[:fifth])


def storm(server: Server, known: list[tuple[Question, Any]], minutes: float, cases: int, seed: int) -> dict[str, Any]:
    """Everything at once, for so many minutes, and until all cases have been sent."""
    target = Target(server.port, server.key, time.monotonic() + 60 * minutes)
    watch = Watch(server)
    looking = threading.Thread(target=watch.run)
    looking.start()
    began = time.monotonic()
    made = _send_cases(server, cases, seed) if cases else None
    attackers = [(target, pause, deeds) for count, pause, deeds in GROUPS for _ in range(count)]
    # At first twice as many, who do not pause, so that most of what can come together has come together once.
    first = replace(target, until=time.monotonic() + 60 * minutes * WARM)
    attackers += [(first, 0.1, deeds) for _, _, deeds in attackers]
    with Progress(60 * minutes, "attack", "seconds") as bar, ThreadPoolExecutor(len(attackers) + CLIENTS) as pool:
        attacking = [pool.submit(attack, seed * 1000 + i, *one) for i, one in enumerate(attackers)]
        behaving = [pool.submit(behave, server, known, client, target) for client in range(CLIENTS)]
        while not target.over:
            time.sleep(LOOK)
            bar.advance(LOOK)
            if made and made.poll() is None and target.until < time.monotonic() + 1:
                target.until = time.monotonic() + 2  # not before the last case
            if server.process.poll() is not None:
                target.until = 0.0
        watch.ended.set()  # before the last ones leave, and all is quiet again
        [one.result() for one in attacking]
        heard = [one.result() for one in behaving]
    looking.join()
    return {
        "seconds": time.monotonic() - began,
        "attacks": dict(sorted(target.deeds.items())),
        "answered": {f"{what} {status}": count for (what, status), count in sorted(target.seen.items())},
        "faults": target.faults,
        "strangers": target.entered,
        "good": together(heard),
        "schema": _cases(made) if made else {},
        "memory_mb": [round(size / 1e6, 1) for size in watch.samples[:: max(1, len(watch.samples) // 100)]],
        "memory_growth_mb": watch.growth / 1e6,
    }


def _send_cases(server: Server, cases: int, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.serve.cases", str(server.port), str(cases), str(seed)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "NANOCHAT_API_KEY": server.key}
    )


def _cases(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError("schemathesis ended early, see above")
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def settle(server: Server) -> tuple[float, dict[str, Any]]:
    """Seconds until nothing runs or waits any more, or all of EMPTY; and what the server says of itself then."""
    began = time.monotonic()
    while True:
        stats, seconds = server.stats(), time.monotonic() - began
        if (not stats["running"] and not stats["waiting"]) or seconds > EMPTY:
            return seconds, stats
        time.sleep(0.1)


def abandon(server: Server) -> dict[str, Any]:
    """Many ask for long answers and leave together: how many tokens were written for nobody."""
    asked = [wire.request(one.path, one.body.encode(), server.headers, server.port) for one in long_questions(LEFT)]
    connections = [wire.connect(server.port) for _ in asked]
    for connection, data in zip(connections, asked, strict=True):
        connection.sendall(data)
    for connection in connections:
        connection.recv(1)  # its answer has begun
    before = server.stats()["tokens"]
    for connection in connections:
        connection.close()
    seconds, stats = settle(server)
    return {"tokens": stats["tokens"] - before, "seconds": seconds}


def drain(server: Server) -> dict[str, Any]:
    """Tell it to stop while it answers: what the answers, and what somebody who comes then, gets."""
    asked = long_questions(DRAINED)
    with ThreadPoolExecutor(DRAINED) as pool:
        right = list(pool.map(lambda question: ask(question, server.port, server.key).answer, asked))
        before = server.stats()["requests"]
        running = [pool.submit(ask, question, server.port, server.key) for question in asked]
        while server.stats()["running"] < DRAINED and server.stats()["requests"] < before + DRAINED:
            time.sleep(0.005)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        while server.accepts() and not all(one.done() for one in running):
            time.sleep(0.005)  # it acts on the signal within a tenth of a second
        late = []
        data = wire.request(asked[0].path, asked[0].body.encode(), server.headers, server.port)
        while not all(one.done() for one in running):
            late.append(wire.talk(server.port, data))
            time.sleep(0.02)
        answers = [one.result().answer for one in running]
    try:
        code: int | None = server.process.wait(60)
    except subprocess.TimeoutExpired:
        code = None
    refused = [reply for reply in late if reply.status == 503]
    return {
        "seconds": time.monotonic() - began,
        "exit_code": code,
        "whole": sum(answer is not None and answer == one for answer, one in zip(answers, right, strict=True)),
        "late": dict(Counter(str(reply.status) for reply in late)),
        "retry_after": all(reply.headers.get("retry-after", "").isdigit() for reply in refused),
    }


def attacked(minutes: float, cases: int, seed: int, program: str = "") -> tuple[dict[str, Any], dict[str, bool]]:
    """What was found, and the checks. program: of a server that is another one, for tests."""
    _many_files()
    with tempfile.TemporaryDirectory(prefix="nanochat-hostile-") as folder:
        call(f"from benchmarks.serve.model import *; write(Path({folder!r}), *tiny_model())")
        with Server(Path(folder), "--device=cpu", "--max-tokens=32", key=KEY, program=program) as server:
            known = learn(server)
            quiet = {"memory": server.memory(), "files": server.files()}
            found = storm(server, known, minutes, cases, seed)
            if (code := server.process.poll()) is not None:
                raise RuntimeError(f"the server has ended with exit code {code}: {server.said()[-3000:]}")
            emptied, stats = settle(server)
            time.sleep(1)  # connections that it closes last
            files = server.files()
            after = Heard()
            for question, right in known:
                after.compare(question, right, server.port, server.key)
            left = abandon(server)
            stopped = drain(server)
            said = server.said()
    found |= {
        "emptied_s": emptied, "stats": stats, "files_before": quiet["files"], "files_after": files,
        "good_afterwards": together([after]), "abandon": left, "drain": stopped, "said": said[-3000:],
    }  # fmt: skip
    good, schema = found["good"], found["schema"]
    late, flat = set(stopped["late"]), minutes >= LONG
    return found, {
        "no answer of 500 and above": not found["faults"] and not schema.get("faults"),
        "no stranger came in": not found["strangers"],
        "good clients had the answers of a quiet server": good["answers"] > 0 and not good["different"],
        "good clients were always answered": not good["unanswered"],
        "the same answers afterwards": after.different == after.unanswered == 0,
        "as many cases of the schema as asked for": not cases or schema["cases"] >= cases,
        "answers are as the schema says": not schema.get("strange"),
        **({f"memory grew by less than {GROWTH >> 20} MB": found["memory_growth_mb"] < GROWTH / 1e6} if flat else {}),
        "every slot was returned": not stats["running"] and not stats["waiting"],
        "clients that leave free their slots": left["tokens"] < LEFT * FOR_NOBODY,
        "every connection was closed": files <= quiet["files"] + 2,
        "nothing failed inside": "Traceback" not in said,
        "told to stop, it finished its answers": stopped["whole"] == DRAINED,
        "told to stop, it refused new ones": "503" in late <= {"503", str(wire.CLOSED)} and stopped["retry_after"],
        "told to stop, it ended with exit code 0": stopped["exit_code"] == 0,
    }  # fmt: skip


def _many_files() -> None:
    """This process holds both the floods and the good clients."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def show(found: dict[str, Any]) -> None:
    good, schema = found["good"], found["schema"]
    attacks = sum(found["attacks"].values())
    print(f"{found['seconds']:,.0f} s, {attacks:,} attacks, {schema.get('cases', 0):,} cases of the schema")
    for name in ("faults", "strangers"):
        for line in found[name]:
            print(f"  {name}: {line}")
    for line in schema.get("faults", ()):
        print(f"  fault of the schema: {line}")
    for what, count in schema.get("strange", {}).items():
        print(f"  not as the schema says, {count} times: {what}")
    for line in (*good["examples"], *found["good_afterwards"]["examples"]):
        print(f"  a good client: {line}")
    for line in _told(found):
        print(line, flush=True)


def _told(found: dict[str, Any]) -> Iterator[str]:
    good, memory, stopped = found["good"], found["memory_mb"], found["drain"]
    times = f"p50 {good.get('p50_ms', 0):,.0f} ms, p99 {good.get('p99_ms', 0):,.0f} ms"
    yield f"good clients: {good['answers']:,} answers, {times}, {good['refused']:,} times asked to come again"
    yield f"memory: {memory[0]:,.0f} MB to {memory[-1]:,.0f} MB, growth {found['memory_growth_mb']:+.1f} MB"
    files = f"open files {found['files_before']} before, {found['files_after']} after"
    left = found["abandon"]
    yield f"empty after {found['emptied_s']:.1f} s; {LEFT} answers left: {left['tokens']:,} tokens more; {files}"
    ended = f"exit code {stopped['exit_code']} after {stopped['seconds']:.1f} s"
    yield f"told to stop: {stopped['whole']} of {DRAINED} answers whole, {ended}; who came then got {stopped['late']}"
