"""Sections of scores: the table of results, beside what the seed expects; tasks by category; CORE."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanochat.report.blocks import Block, Cell, Fold, Section, Table
from nanochat.report.runs import Runs
from nanochat.report.source import STAGES, Source
from nanochat.report.values import line, score, show

TASKS = ("ARC-Easy", "ARC-Challenge", "GSM8K", "HumanEval", "MMLU", "TinyWorld", "SpellingBee")
MANY = 20  # rows from which a table is folded: MMLU has 57 subjects
SEED = Path(__file__).with_name("seed.toml")


def results(runs: Runs) -> tuple[Table | None, str]:
    """One column per stage, as in the README's table of results; and where the expected scores come from."""
    columns = {stage: _scores(runs, stage) for stage in STAGES}
    shown = [stage for stage in STAGES if stage != "rl" or columns[stage]]
    names = {name for values in columns.values() for name in values}
    expected = _expected(runs)
    names |= {name for stage in shown for name in expected.get(stage.upper(), {})}
    known = ["CORE", "val bpb", "val loss", *TASKS]
    ordered = [name for name in known if name in names] + sorted(names - {*known, "ChatCORE"})
    ordered += ["ChatCORE"] if "ChatCORE" in names else []
    if not ordered:
        return None, ""
    rows: list[list[str | Cell]] = []
    for name in ordered:
        cells = [(score(columns[stage].get(name)), expected.get(stage.upper(), {}).get(name)) for stage in shown]
        rows.append([name, *(Cell(text, wanted) if wanted else text for text, wanted in cells)])
    note = f"Beside: what to expect by {expected['source']}, after {expected['about']}." if expected else ""
    return Table(["Metric", *(stage.upper() for stage in shown)], rows), note


def _scores(runs: Runs, stage: str) -> dict[str, float]:
    found: dict[str, float] = {}
    if (bpb := runs.val_bpb(stage)) is not None:
        found["val bpb"] = bpb
    if (loss := runs.own_validation(stage, "val_loss")) is not None:
        found["val loss"] = loss
    for record in runs.evaluations(stage):
        found |= {name: record[key] for key, name in (("core", "CORE"), ("chatcore", "ChatCORE")) if key in record}
        if record.get("command") == "chat_eval":
            found |= {line(name, 60): task["accuracy"] for name, task in record.get("tasks", {}).items()}
    return found


def _expected(runs: Runs) -> Mapping[str, Any]:
    """The seed's figures for a run of its kind, else {}."""
    seed = _seed()
    settings = runs.settings("base")
    model = settings.get("model", {})
    return seed if all(model.get(key, settings.get(key)) == value for key, value in seed["kind"].items()) else {}


@functools.cache
def _seed() -> Mapping[str, Any]:
    return tomllib.loads(SEED.read_text(encoding="utf-8"))


def categories(source: Source) -> list[Block]:
    """A table for every task with categories, with the score of a constant answer for each category."""
    by_task: dict[str, dict[str, dict[str, Any]]] = {}
    for stage in STAGES:
        for record in source.runs.evaluations(stage):
            for name, task in record.get("tasks", {}).items():
                if len(task.get("by_category", {})) > 1:
                    by_task.setdefault(line(name, 60), {})[stage] = task["by_category"]
    parts: list[Block] = []
    for name, by_stage in by_task.items():
        listed = list(dict.fromkeys(category for found in by_stage.values() for category in found))
        rows = []
        for category in listed:
            scores = [found.get(category) for found in by_stage.values()]
            any_score = next(found for found in reversed(scores) if found)
            asked = show("", any_score.get("n"))
            rows.append([line(category, 80), asked, *map(_with_interval, scores), score(any_score.get("baseline"))])
        head = ["Category", "n", *(f"{stage.upper()} (95% CI)" for stage in by_stage), "commonest answer"]
        table = Table(head, rows)
        parts.append(Section(name, [Fold(f"{len(rows)} categories", [table]) if len(rows) > MANY else table], 2))
    return parts


def _with_interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    limits = " ({:.2f} to {:.2f})".format(*found["ci95"]) if "ci95" in found else ""
    return f"{found['accuracy']:.3f}{limits}"


def core(source: Source) -> list[Block]:
    record = next((r for r in source.runs.evaluations("base") if "core" in r), None)
    if record is None or not record.get("tasks"):
        return []
    rows = [
        [line(name, 80), show("", task.get("n")), score(task["accuracy"]), score(task.get("centered"))]
        for name, task in record["tasks"].items()
    ]
    return [Table(["Task", "n", "Accuracy", "Centered"], rows)]
