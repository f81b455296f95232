"""The sections of the report; each is Markdown, or "" when its runs are not there."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from nanochat.console import duration
from nanochat.report.markdown import cell, quoted, table
from nanochat.report.runs import Record, Runs

TASKS = ("ARC-Easy", "ARC-Challenge", "GSM8K", "HumanEval", "MMLU", "TinyWorld", "SpellingBee")
STAGES = ("base", "mid", "sft", "rl")
ENVELOPE = {"version", "time", "kind"}


def cost(seconds: float, price: float | None) -> str:
    """price: per hour, in whatever currency it was given."""
    return "not given" if price is None else f"{seconds / 3600 * price:.2f}"


def summary(runs: Runs, price: float | None) -> str:
    stages = runs.stages()
    seconds = sum(stage.seconds for stage in stages)
    parts = [f"Total wall time: {duration(seconds)}", f"cost: {cost(seconds, price)}"]
    trained = runs.last("base_train", "summary")
    if trained and trained.get("params"):
        parts.append(f"{trained['params']:,} parameters")
    if trained and trained.get("tokens"):
        parts.append(f"{trained['tokens']:,} training tokens")
    return f"**{' · '.join(parts)}**"


def machine(facts: Mapping[str, str]) -> str:
    return "## Machine\n\n" + table(["", ""], facts.items())


def metrics(runs: Runs) -> str:
    """One column per stage, as in the README's table of results."""
    columns: dict[str, dict[str, float | None]] = {stage: _stage_metrics(runs, stage) for stage in STAGES}
    shown = [stage for stage in STAGES if stage != "rl" or columns[stage]]
    names = {name for values in columns.values() for name in values}
    known = ["CORE", "val bpb", "val loss", *TASKS]
    ordered = [name for name in known if name in names] + sorted(names - {*known, "ChatCORE"})
    ordered += ["ChatCORE"] if "ChatCORE" in names else []
    if not ordered:
        return ""
    rows = [[name, *(_score(columns[stage].get(name)) for stage in shown)] for name in ordered]
    return "## Results\n\n" + table(["Metric", *(stage.upper() for stage in shown)], rows)


def _stage_metrics(runs: Runs, stage: str) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    if (bpb := runs.val_bpb(stage)) is not None:
        found["val bpb"] = bpb
    if (loss := runs.own_validation(stage, "val_loss")) is not None:
        found["val loss"] = loss
    for record in runs.evaluations(stage):
        if record.get("core") is not None:
            found["CORE"] = record["core"]
        if record.get("chatcore") is not None:
            found["ChatCORE"] = record["chatcore"]
        if record.get("command") == "chat_eval":
            found |= {name: task["accuracy"] for name, task in record.get("tasks", {}).items()}
    return found


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


MANY_CATEGORIES = 20  # larger tables are folded: MMLU has 57 subjects


def categories(runs: Runs) -> str:
    """A table for every task with categories, with the score of a constant answer for each category."""
    by_task: dict[str, dict[str, dict[str, Any]]] = {}
    for stage in STAGES:
        for record in runs.evaluations(stage):
            for name, task in record.get("tasks", {}).items():
                if len(task.get("by_category") or {}) > 1:
                    by_task.setdefault(name, {})[stage] = task["by_category"]
    parts = []
    for name, by_stage in by_task.items():
        listed = list(dict.fromkeys(category for found in by_stage.values() for category in found))
        rows = []
        for category in listed:
            scores = [by_stage[stage].get(category) for stage in by_stage]
            any_score = next(s for s in reversed(scores) if s)
            rows.append([category, any_score["n"], *map(_with_interval, scores), _score(any_score.get("baseline"))])
        head = ["Category", "n", *(f"{stage.upper()} (95% CI)" for stage in by_stage), "commonest answer"]
        shown = table(head, rows)
        if len(rows) > MANY_CATEGORIES:
            shown = f"<details><summary>{len(rows)} categories</summary>\n\n{shown}\n\n</details>"
        parts.append(f"## {name}\n\n{shown}")
    return "\n\n".join(parts)


def _with_interval(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return "-"
    low, high = score["ci95"]
    return f"{score['accuracy']:.3f} ({low:.2f} to {high:.2f})"


def core(runs: Runs) -> str:
    record = next((r for r in runs.evaluations("base") if r.get("core") is not None), None)
    if record is None:
        return ""
    rows = [[name, task["n"], task["accuracy"], task.get("centered")] for name, task in record["tasks"].items()]
    return "## CORE tasks\n\n" + table(["Task", "n", "Accuracy", "Centered"], rows)


def times(runs: Runs, price: float | None) -> str:
    stages = runs.stages()
    if not stages:
        return ""
    rows = [[s.name, duration(s.seconds), cost(s.seconds, price), s.status or "-"] for s in stages]
    total = sum(s.seconds for s in stages)
    rows.append(["**total**", f"**{duration(total)}**", f"**{cost(total, price)}**", ""])
    return "## Time and cost\n\n" + table(["Stage", "Time", "Cost", "Status"], rows)


def stages(runs: Runs) -> str:
    """Every run's settings and outcome."""
    parts = []
    for run in runs.records:
        settings, outcome = runs.last(run, "settings"), runs.last(run, "summary")
        if settings is None and outcome is None:
            continue
        text = f"### {run}"
        if outcome:
            text += "\n\n" + ", ".join(_outcome(name, value) for name, value in _own(outcome).items())
        if settings:
            text += "\n\n" + table(["Setting", "Value"], _own(settings).items())
        parts.append(text)
    return "\n\n".join(["## Stages", *parts]) if parts else ""


def _own(record: Record) -> dict[str, Any]:
    """The record's values, nested ones by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": v for inner, v in _own(value).items()}
        elif name not in ENVELOPE:
            flat[name] = value
    return flat


def _outcome(name: str, value: Any) -> str:
    if name == "seconds":
        return f"time {duration(value)}"
    if name == "flops":
        return f"flops {value:.3g}"
    return f"{name} {cell(value)}"


def reinforcement(runs: Runs) -> str:
    """Scores on held-out questions during reinforcement, and the mean of the steps since the previous row."""
    records = runs.records.get("chat_rl", [])
    measured = {r["step"]: r for r in records if r["kind"] == "eval"}
    steps = {r["step"]: r for r in records if r["kind"] == "step"}
    if not measured:
        return ""
    rates = [name for name in measured[max(measured)] if name.startswith("pass@")]
    rows, before = [], 0
    for step in sorted(measured):
        passed = [r for at, r in steps.items() if before < at <= step]
        means = [statistics.fmean(r[name] for r in passed) if passed else None for name in ("reward", "kl", "length")]
        rows.append([str(step), *(_score(measured[step].get(name)) for name in rates), *means])
        before = step
    head = ["Step", *rates, "training reward", "KL (nats per token)", "tokens per answer"]
    task = (runs.last("chat_rl", "settings") or {}).get("task", "")
    return f"## Reinforcement: {task}\n\n" + table(head, rows)


def samples(runs: Runs) -> str:
    found = runs.samples()
    if not found:
        return ""
    texts = [quoted(f"{s.get('prompt', '')}{s.get('text', '')}".strip("\n")) for s in found]
    return "\n\n".join(["## Samples", *texts])
