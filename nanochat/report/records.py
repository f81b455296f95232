"""Records as the report expects them: a value of another kind than it should be is left out, and told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.report.values import YEARS, number

Record = Mapping[str, Any]
MOST = 1000  # tasks of an evaluation, or categories of a task
# Everywhere but in settings, which are shown as they are.
NUMBERS = {
    "step", "steps", "tokens", "loss", "lr", "tok_per_s", "waited", "seconds", "mfu", "memory", "params", "flops",
    "paused", "save_pause", "val_loss", "core", "chatcore", "reward", "uneven", "kl", "length", "finished",
}  # fmt: skip
POSITIVE = {"step", "steps", "tokens", "seconds", "time", "params", "flops", "memory"}
MAPPINGS = {"tasks", "bpb", "checkpoint", "model", "host", "made", "rates"}
TEXTS = {"prompt", "text", "task", "tag", "command", "stage", "status", "machine", "dtype", "dataset", "arch"}


def cleaned(record: Record) -> tuple[dict[str, Any], list[str]]:
    """The record, and the names of the values that were left out."""
    found: dict[str, Any] = {"kind": record["kind"]}
    wrong = []
    for name, value in record.items():
        if name in ("kind", "version"):
            continue
        if (
            (name in NUMBERS or name == "time") and type(value) in (float, int) and 0 <= value < 1e10
        ):  # nearly all there is
            found[name] = value
            continue
        kept = _checked(name, value, record["kind"])
        if kept is not None:
            found[name] = kept
        elif value is not None:
            wrong.append(name)
    return found, wrong


def _checked(name: str, value: Any, kind: str) -> Any:
    """None for a value that is not what its name says."""
    if name == "time" or (kind != "settings" and (name in NUMBERS or name.startswith("pass@"))):
        known = number(value)
        if known is None or (name in POSITIVE and known < 0) or (name in ("time", "seconds") and known > YEARS):
            return None
        return value if abs(known) < 1e15 else known  # numpy knows no larger integers
    if name == "val_bpb" and kind in ("eval", "summary") and not isinstance(value, Mapping):  # miniseries has several
        return value if number(value) is not None else None
    if name in TEXTS and kind in ("sample", "stage", "settings", "resume"):
        return value if isinstance(value, str) else None
    if name not in MAPPINGS:
        return value
    if not isinstance(value, Mapping):
        return None
    if name == "tasks":
        tasks = {str(task): kept for task, told in list(value.items())[:MOST] if (kept := _score(told)) is not None}
        return tasks if tasks or not value else None
    if name == "bpb":
        return {str(split): bpb for split, bpb in value.items() if number(bpb) is not None}
    return dict(value)


def _score(value: Any) -> dict[str, Any] | None:
    """A task's score, or that of a category: accuracy, n, ci95 and what else it has."""
    if not isinstance(value, Mapping) or number(value.get("accuracy")) is None:
        return None
    found = {"accuracy": value["accuracy"]}
    for name in ("n", "centered", "baseline"):
        if number(value.get(name)) is not None:
            found[name] = value[name]
    limits = value.get("ci95")
    if isinstance(limits, list | tuple) and len(limits) == 2 and None not in map(number, limits):
        found["ci95"] = limits
    parts = value.get("by_category")
    if isinstance(parts, Mapping):
        scores = {str(name): _score(part) for name, part in list(parts.items())[:MOST]}
        found["by_category"] = {name: part for name, part in scores.items() if part is not None}
    return found
