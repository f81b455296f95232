"""Sections of where and from what: machines and code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nanochat.report.blocks import Block, Columns, Fold, Section, Table
from nanochat.report.facts import bloat
from nanochat.report.records import Record
from nanochat.report.runs import TRAINING, Runs
from nanochat.report.source import STAGES, Source
from nanochat.report.values import line, number, show, size
from nanochat.train.host import host


def machines(source: Source) -> list[Block]:
    """Where each stage ran: a report may be made elsewhere."""
    rows = []
    for stage in source.trained():
        run = TRAINING[stage]
        for device, record in devices(source.runs, run).items():
            here = record.get("host", {})
            memory = number(here.get("gpu_memory")) or number(here.get("memory"))
            software = [line(here.get("torch", "-"), 40), _commit(here)]
            rows.append([run, device, size(memory) if memory else "-", line(record.get("dtype", "-"), 20), *software])
    blocks: list[Block] = []
    if rows:
        head = ["Stage", "Machine", "Memory", "Precision", "torch", "Commit"]
        blocks.append(Table(head, rows, words=("Machine", "Precision", "torch", "Commit")))
    here = host()
    names = {
        "cpu": "CPU",
        "cores": "Cores",
        "memory": "Memory",
        "system": "System",
        "python": "Python",
        "torch": "torch",
    }
    own = [[name, show(key, here[key])] for key, name in names.items()]
    gpus = f"{here['gpus']} x {here['gpu']}, {size(here['gpu_memory'])}" if "gpu" in here else "none"
    own.insert(3, ["GPU", gpus])
    return [*blocks, Fold("The machine on which this report was made", [Table(["", ""], own, words=("",))])]


def devices(runs: Runs, run: str) -> dict[str, Record]:
    """The devices that a training ran on, each with the newest record that names it."""
    found = {}
    for r in runs.records.get(run, []):
        if r["kind"] in ("settings", "resume") and r.get("machine"):
            ranks = number(r.get("ranks")) or 1
            found[f"{ranks:.0f} x {line(r['machine'], 60)}" if ranks > 1 else line(r["machine"], 60)] = r
    return found


def _commit(here: Mapping[str, Any]) -> str:
    return line(here.get("commit", "-"), 40) + _dirty(here.get("dirty"))


def code(source: Source) -> list[Block]:
    """The state of git when the training began, or else now, and how much code there is."""
    runs = source.runs
    told = [(f"the beginning of {stage}", runs.settings(stage).get("host", {})) for stage in STAGES]
    asked = [(f"the evaluation of {stage}", r.get("made", {})) for stage in STAGES for r in runs.evaluations(stage)]
    known = ((when, found) for when, found in [*told, *asked] if found.get("commit"))
    when, here = next(known, ("this report", host()))
    rows = [["nanochat", line(here.get("nanochat", "-"), 40)]]
    if here.get("commit"):
        rows += [
            ["Branch", line(here.get("branch", "-"), 80)],
            ["Commit", line(here["commit"], 40) + _dirty(here.get("dirty"))],
            ["Message", line(here.get("message", "-"), 80)],
            ["As of", when],
        ]
    weight = [[name, f"{value:,}"] for name, value in bloat().items()]
    git = Section("Git", [Table(["", ""], rows, words=("",))], 3)
    return [Columns([[git], [Section("Bloat", [Table(["", ""], weight)], 3)]])]


def _dirty(value: Any) -> str:
    return (" (dirty)" if value else " (clean)") if isinstance(value, bool) else ""
