"""The section of every run's settings and outcome."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.report.blocks import Block, Columns, Fold, Section, Table
from nanochat.report.records import Record
from nanochat.report.source import Source
from nanochat.report.values import line, show
from nanochat.train import BaseConfig, ChatConfig, RLConfig

CONFIGS = {"base_train": BaseConfig, "mid_train": ChatConfig, "chat_sft": ChatConfig, "chat_rl": RLConfig}
ENVELOPE = {"version", "time", "kind"}
SHOWN = 12  # results of a run that are not folded
MOST = 500  # lines of a table


def settings(source: Source) -> list[Block]:
    """Every run's settings and outcome: open what was chosen, folded what was left as it is."""
    parts: list[Block] = []
    for run in source.runs.records:
        chosen, outcome = source.runs.last(run, "settings"), source.runs.last(run, "summary")
        if chosen is None and outcome is None:
            continue
        blocks: list[Block] = []
        results, tables = _own(outcome or {}), _nested(outcome or {})
        pairs = [(name, value) for name, value in results.items() if name.partition(".")[0] not in tables]
        columns: list[list[Block]] = [[_pairs(("Result", "Value"), pairs[:SHOWN])]] if pairs else []
        folds: list[Block] = [Fold(title, [table]) for title, table in tables.items()]
        if pairs[SHOWN:]:
            folds.append(Fold(f"{len(pairs) - SHOWN} more results", [_pairs(("Result", "Value"), pairs[SHOWN:])]))
        if chosen is not None:
            openly, more = _chosen(run, _own({k: v for k, v in chosen.items() if k != "host"}))
            columns += [[openly]] if openly else []
            folds += more
        blocks += [Columns(columns)] if columns else []
        blocks += folds
        parts.append(Section(run, blocks, 3))
    return parts


def _chosen(run: str, values: Mapping[str, Any]) -> tuple[Table | None, list[Block]]:
    """Flags that differ from their defaults, and the rest folded; all of them for a run whose flags are not known."""
    head = ("Setting", "Value")
    if run not in CONFIGS:
        return None, [Fold(f"{len(values)} settings", [_pairs(head, list(values.items()))])]
    defaults = {field.name: field.default for field in dataclasses.fields(CONFIGS[run])} | {"data": []}
    chosen = [(k, v) for k, v in values.items() if k in defaults and v != defaults[k]]
    same = [(k, v) for k, v in values.items() if k in defaults and v == defaults[k]]
    facts = [(k, v) for k, v in values.items() if k not in defaults]
    folds: list[Block] = []
    if facts:
        folds.append(Fold(f"{len(facts)} values that follow", [_pairs(head, facts)]))
    if same:
        folds.append(Fold(f"{len(same)} settings at their defaults", [_pairs(head, same)]))
    return _pairs(head, chosen) if chosen else None, folds


def _pairs(head: tuple[str, str], pairs: Sequence[tuple[str, Any]]) -> Table:
    return Table(head, [[_named(name), show(name, value)] for name, value in pairs[:MOST]])


def _nested(record: Record) -> dict[str, Table]:
    """Values of several things by the same names, such as the tokens of several texts, as tables."""
    found = {}
    for name, parts in record.items():
        if not isinstance(parts, Mapping) or not all(isinstance(part, Mapping) for part in parts.values()):
            continue
        columns = list(dict.fromkeys(key for part in parts.values() for key in part))[:10]
        if columns:
            rows = [
                [line(key, 60), *(show(c, part.get(c)) for c in columns)] for key, part in list(parts.items())[:MOST]
            ]
            found[str(name)] = Table(["", *(line(c, 40) for c in columns)], rows)
    return found


def _own(record: Record) -> dict[str, Any]:
    """The record's values, nested ones by dotted name."""
    flat: dict[str, Any] = {}
    todo = [(str(name), value) for name, value in reversed(list(record.items()))]
    while todo and len(flat) < 2000:
        name, value = todo.pop()
        if isinstance(value, Mapping) and value:
            todo += [(f"{name}.{inner}", v) for inner, v in reversed(list(value.items()))]
        elif name not in ENVELOPE:
            flat[name] = value
    return flat


def _named(name: str) -> str:
    return line("time" if name == "seconds" else name, 80)
