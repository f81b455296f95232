"""What a training answered at its evaluations, arranged for a page: by question, and when each kind was learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.report.values import number, visible
from nanochat.train.answers import FILE, read_answers

LEARNT = 0.75  # share of a kind's questions that must be right, from then on
MOST = 400  # steps that are shown, the newest
LONGEST = 2000  # characters of a text
KNOWN = {"version", "time", "step", "tokens", "question", "kind", "answer", "expected", "right"}

Row = Mapping[str, Any]


def answers_over_time(folder: Path) -> dict[str, Any]:
    """steps: each with its step and what was measured there. questions: each with its answers, one for each step (None
    where it was not asked). kinds: the share that was right at each step, and the first step from which at least
    LEARNT of it stayed right, or None. Everything is empty for a run that wrote no answers.
    """
    try:
        rows = read_answers(folder / FILE)
    except UserError as error:
        return {"steps": [], "questions": [], "kinds": [], "problem": str(error)}
    except OSError as error:
        return {"steps": [], "questions": [], "kinds": [], "problem": f"{FILE} cannot be read: {error.strerror}"}
    steps = sorted({row["step"] for row in rows})[-MOST:]
    place = {step: at for at, step in enumerate(steps)}
    measured: list[dict[str, float]] = [{"step": step} for step in steps]
    questions: dict[str, dict[str, Any]] = {}
    for row in rows:
        if (at := place.get(row["step"])) is None:
            continue
        measured[at] |= {k: v for k, value in row.items() if k not in KNOWN and (v := number(value)) is not None}
        question = questions.setdefault(row["question"], _question(row, len(steps)))
        right = row.get("right")
        question["answers"][at] = {"answer": _shown(row["answer"]), "right": right if isinstance(right, bool) else None}
    kinds = [
        _kind(kind, list(questions.values()), steps) for kind in dict.fromkeys(q["kind"] for q in questions.values())
    ]
    known = [kind for kind in kinds if any(share is not None for share in kind["shares"])]
    return {"steps": measured, "questions": list(questions.values()), "kinds": known, "problem": ""}


def _question(row: Row, steps: int) -> dict[str, Any]:
    text = {name: _shown(str(row.get(name) or "")) for name in ("question", "kind", "expected")}
    return {**text, "answers": [None] * steps}


def _shown(text: str) -> str:
    return visible(text[:LONGEST])


def _kind(kind: str, questions: Sequence[Row], steps: Sequence[int]) -> dict[str, Any]:
    asked = [question for question in questions if question["kind"] == kind]
    shares: list[float | None] = []
    for at in range(len(steps)):
        marks = [given["right"] for question in asked if (given := question["answers"][at])]
        known = [mark for mark in marks if mark is not None]
        shares.append(sum(known) / len(known) if known else None)
    learnt = None
    for step, share in zip(reversed(steps), reversed(shares), strict=True):
        if share is None:
            continue
        if share < LEARNT:
            break
        learnt = step
    return {"kind": kind, "questions": len(asked), "shares": shares, "learnt": learnt}
