"""What the models wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from nanochat.report.blocks import Block, Columns, Fold, Sample
from nanochat.report.runs import Runs
from nanochat.report.source import STAGES, Source

SHORT = 200  # characters of question and answer, preferred there
GLANCE = 320  # characters of a sample that the first screen has room for


def best(runs: Runs) -> list[Sample]:
    """Three that fit on the first screen: right answers first, of different tasks, and a text of the base model."""
    chats = [sample for stage in ("rl", "sft", "mid") for sample in _samples(runs, stage) if sample.chat]
    chats = [sample for sample in chats if sample.title == chats[0].title]
    chats.sort(key=lambda sample: (sample.right is not True, len(sample.prompt) + len(sample.text) > SHORT))
    texts = sorted(_samples(runs, "base"), key=lambda sample: not sample.prompt)
    chosen = [*_apart(chats)[: 3 if not texts else 2], *texts[: 3 if not chats else 1]]
    return [dataclasses.replace(one, prompt=_short(one.prompt), text=_short(one.text)) for one in chosen]


def _apart(chats: Sequence[Sample]) -> list[Sample]:
    """One of each task, then the others."""
    firsts = list({sample.task: sample for sample in reversed(chats)}.values())[::-1]
    return [*firsts, *(sample for sample in chats if sample not in firsts)]


def _short(text: str) -> str:
    return text if len(text) <= GLANCE else text[:GLANCE].rstrip() + " …"


def _samples(runs: Runs, stage: str) -> list[Sample]:
    who = {"base": "base model", "mid": "mid-trained model", "sft": "chat model", "rl": "model taught by rewards"}[
        stage
    ]
    found = []
    for r in runs.samples(stage):
        task, right = r.get("task", ""), r.get("right")
        title = f"The {who}"
        right = right if isinstance(right, bool) else None
        found.append(Sample(title, r.get("prompt", ""), r["text"], bool(task), right, task))
    return found


def samples(source: Source) -> list[Block]:
    blocks: list[Block] = []
    for stage in reversed(STAGES):
        if found := _samples(source.runs, stage):
            right = [sample.right for sample in found if sample.right is not None]
            title = f"{found[0].title}: {len(found)} sample{'s' * (len(found) > 1)}" + (
                f", {sum(right)} of {len(right)} right" if right else ""
            )
            blocks.append(Fold(title, [Columns([[sample] for sample in found])]))
    return blocks
