"""Tasks for reinforcement learning: their questions, and the reward of an answer."""

from __future__ import annotations

from nanochat.tasks.table import open_questions, open_task
from nanochat.tasks.task import Task, WithReward

SEED = 3  # of the generated questions; mid has 1 and sft 2


def reward(task: Task, i: int, answer: str) -> float:
    """The reward of an answer to question `i`."""
    if isinstance(task, WithReward):
        return float(task.reward(i, answer))
    return float(is_right(task, i, answer))


def is_right(task: Task, i: int, answer: str) -> bool:
    return next(iter(task.grade(i, answer).values()))


def open_tasks(name: str, world_seed: int | None) -> tuple[Task, Task]:
    """Questions to train on, and held-out ones; UserError for a task that has no training questions."""
    return open_questions(name, world_seed, SEED), open_task(name, world_seed)
