"""Which tasks a chat model is graded on: those asked for, or those whose data is available."""

from __future__ import annotations

import torch.distributed as dist

from nanochat.console import UserError, say
from nanochat.machine import Ranks
from nanochat.tasks import TASKS, Task, open_task

# SimpleSpelling runs only if named: SpellingBee tests spelling too.
USUAL = tuple(name for name in TASKS if name != "SimpleSpelling")


def task_names(asked: str) -> list[str]:
    """The names in "ARC-Easy|MMLU" or "ARC-Easy,MMLU", each once; UserError for an unknown one."""
    names = list(dict.fromkeys(name for part in asked.split("|") for name in map(str.strip, part.split(",")) if name))
    unknown = [name for name in names if name not in TASKS]
    if unknown or not names:
        problem = f"unknown task {unknown[0]!r}" if unknown else "--task names no task"
        raise UserError(problem, f"Choose from {', '.join(TASKS)}, or all")
    return names


def choose_tasks(asked: str, dataset: str, me: Ranks, world_seed: int | None = None) -> dict[str, Task]:
    """The tasks by name. asked: names, "all", or "" for those whose data is here or can be downloaded.

    dataset: what the model was trained on; TinyWorld is a default task only for models trained on tinyworld.
    """
    if me.world == 1:
        return _open(asked, dataset, world_seed)
    # The first rank downloads and decides; the others follow it.
    tasks = _open(asked, dataset, world_seed) if me.is_main else {}
    names: list[list[str]] = [list(tasks)]
    dist.broadcast_object_list(names)
    return tasks if me.is_main else {name: open_task(name, world_seed) for name in names[0]}


def _open(asked: str, dataset: str, world_seed: int | None) -> dict[str, Task]:
    if asked:
        return {name: open_task(name, world_seed) for name in (USUAL if asked == "all" else task_names(asked))}
    found: dict[str, Task] = {}
    missing = []
    for name in USUAL:
        if name == "TinyWorld" and dataset != "tinyworld":
            continue
        try:
            found[name] = open_task(name, world_seed)
        except UserError:
            missing.append(name)
    if missing:
        remedy = "set NANOCHAT_HUB_DIR to a mirror, or go online"
        say(f"Without {', '.join(missing)}: not on this machine ({remedy})")
    return found
