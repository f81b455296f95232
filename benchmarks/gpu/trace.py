"""Where a step's time goes: the profiler's trace of some steps, by kind and by kernel."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import wait_for
from benchmarks.gpu.train import WARM, Work

TOP = 20
NAME = 120  # characters of a kernel's name
UPDATE, STEP = "nanochat update", "nanochat step"  # names of ranges in the trace
# The first pattern that matches a kernel's name (on a CPU: an operation's) decides.
KINDS = (
    ("loss", r"^triton.*_(exp|scatter)"),
    ("fused", "^triton"),  # the name lists all that is fused, copies too
    ("copies", r"memcpy|memset|copy_|::copy|CatArray|fill"),
    ("attention", r"flash|fmha|flex_attention|attention|varlen"),
    ("matmul", r"gemm|gemv|cutlass|cublas|nvjet|sm\d+_xmma|::mm|::bmm|::addmm|::baddbmm|::linear|_scaled_mm|scaled_mm"),
    ("loss", r"exp|log|scatter|gather|tanh"),  # uncompiled
)


@dataclass(frozen=True)
class Span:
    """Microseconds. own: without what ran inside it."""

    name: str
    begin: float
    end: float
    own: float


def pieces(sizes: Sizes) -> dict[str, Callable[[], dict[str, Any]]]:
    return {f"d{sizes.trace_depth} bf16": partial(trace, sizes)}


def trace(sizes: Sizes) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile, record_function

    work = Work(sizes, sizes.trace_depth)
    update = work.optimizer.step

    def named(*args: Any) -> None:
        with record_function(UPDATE):
            update(*args)

    # Trace the real training step, with a name for the update inside it.
    work.optimizer.step = named  # type: ignore[method-assign, assignment]
    for number in range(WARM):
        work.step(number)
    wait_for(sizes.device)
    activities = [ProfilerActivity.CPU] + ([] if sizes.on_cpu else [ProfilerActivity.CUDA])
    with profile(activities=activities) as prof:
        for number in range(sizes.trace_steps):
            with record_function(STEP):
                work.step(number)
        wait_for(sizes.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        prof.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return {"steps": sizes.trace_steps, "batch_tokens": work.tokens, **summary(events, sizes)}


def summary(events: list[dict[str, Any]], sizes: Sizes) -> dict[str, Any]:
    """ms a step by kind, and the kernels that take longest; idle is when none ran, between the first and the last."""
    kinds = ("cpu_op",) if sizes.on_cpu else ("kernel", "gpu_memcpy", "gpu_memset")
    spans = nested([e for e in events if e.get("ph") == "X" and e.get("cat") in kinds], inside=sizes.on_cpu)
    note = "user_annotation" if sizes.on_cpu else "gpu_user_annotation"
    notes = [e for e in events if e.get("ph") == "X" and e.get("cat") == note]
    updates = [(e["ts"], e["ts"] + e["dur"]) for e in notes if e["name"] == UPDATE]
    if not spans:
        return {"error": "the profiler saw nothing"}
    by_kind: dict[str, float] = defaultdict(float)
    by_name: dict[str, float] = defaultdict(float)
    for span in spans:
        by_kind[kind_of(span, updates)] += span.own
        by_name[span.name] += span.own
    whole = max(s.end for s in spans) - min(s.begin for s in spans)
    by_kind["idle"] = whole - busy(spans)
    return {
        "ms": whole / 1e3 / sizes.trace_steps,
        "by_kind_ms": _longest(by_kind, sizes.trace_steps),
        "top_ms": dict(list(_longest(by_name, sizes.trace_steps).items())[:TOP]),
        "ok": by_kind["matmul"] > 0,
    }


def _longest(microseconds: Mapping[str, float], steps: int) -> dict[str, float]:
    """ms a step, the longest first."""
    ordered = sorted(microseconds.items(), key=lambda item: -item[1])
    return {name[:NAME]: us / 1e3 / steps for name, us in ordered}


def kind_of(span: Span, updates: Iterable[tuple[float, float]]) -> str:
    if any(begin <= span.begin < end for begin, end in updates):
        return "optimiser"
    return next((kind for kind, names in KINDS if re.search(names, span.name, re.IGNORECASE)), "other")


def nested(events: list[dict[str, Any]], inside: bool) -> list[Span]:
    """Spans of trace events, whose ts and dur are microseconds. inside: spans of a thread may be nested."""
    spans: list[Span] = []
    open_by_thread: dict[Any, list[list[float]]] = {}  # [end, place in `found`]
    found = sorted(events, key=lambda e: (e["ts"], -e["dur"]))
    own = [float(e["dur"]) for e in found]
    if inside:
        for place, e in enumerate(found):
            stack = open_by_thread.setdefault((e.get("pid"), e.get("tid")), [])
            while stack and stack[-1][0] <= e["ts"]:
                stack.pop()
            if stack:
                own[int(stack[-1][1])] -= e["dur"]
            stack.append([e["ts"] + e["dur"], place])
    spans.extend(
        Span(e["name"], e["ts"], e["ts"] + e["dur"], max(0.0, mine)) for e, mine in zip(found, own, strict=True)
    )
    return spans


def busy(spans: list[Span]) -> float:
    """Microseconds in which at least one of them ran."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda s: s.begin):
        total += max(0.0, span.end - max(span.begin, until))
        until = max(until, span.end)
    return total
