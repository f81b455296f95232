"""Metrics files made by hand, as runs and evaluations leave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat.metrics import MetricsWriter, evaluation_file, training_file
from nanochat.paths import runs_dir

STAGES = {"base_train": "base", "mid_train": "mid", "chat_sft": "sft", "chat_rl": "rl"}


def file(run: str, tag: str = "d4") -> Path:
    """Of a run by the name that the report gives it."""
    if run in STAGES:
        return training_file(STAGES[run], tag)
    command, dash, stage = run.partition("-")
    return evaluation_file(command, stage, tag) if dash else runs_dir(run) / "metrics.jsonl"


def write(run: str, kind: str, of: str = "d4", **values: Any) -> None:
    MetricsWriter(file(run, of)).write(kind, **values)


def score(accuracy: float, n: int, **more: Any) -> dict[str, Any]:
    return {"accuracy": accuracy, "n": n, "ci95": [accuracy - 0.05, accuracy + 0.05], **more}


def train(run: str, steps: int = 10, bpb: bool = True) -> None:
    write(run, "settings", depth=4, stage=STAGES[run], label="a|b", model={"width": 256, "vocab_size": 2048})

    def val(value: float) -> dict[str, float]:
        return {"val_bpb" if bpb else "val_loss": value}

    for step in range(1, steps + 1):
        write(run, "step", step=step, loss=5 / step, tokens=step * 1000, lr=0.1, tok_per_s=9.0, seconds=step)
        if step % 5 == 0:
            write(run, "eval", step=step, tokens=step * 1000, **val(2 / step))
    write(run, "summary", seconds=75.0, tokens=10000, params=1234567, tok_per_s=7654.3, flops=1.5e12, **val(0.2))


def evaluated(command: str, stage: str, **values: Any) -> None:
    write(
        f"{command}-{stage}",
        "eval",
        command=command,
        checkpoint={"stage": stage, "step": 1},
        seconds=5.0,
        **values,
    )


def everything() -> None:
    write("tok_train", "summary", seconds=3.0, vocab_size=2048)
    train("base_train")
    train("mid_train", bpb=False)
    train("chat_sft", bpb=False)
    evaluated("base_loss", "base", tasks={}, bpb={"train": 0.8, "val": 0.9123})
    evaluated("base_eval", "base", tasks={"copa": score(0.7, 100, centered=0.4)}, core=0.2565, bpb={"val": 0.9123})
    for stage, good in (("mid", 0.6), ("sft", 0.9)):
        categories = {"unseen phrasing": score(good, 300, baseline=0.05), "unknown": score(0.8, 100)}
        evaluated(
            "chat_eval",
            stage,
            tasks={"TinyWorld": score(good, 400, by_category=categories), "SpellingBee": score(0.5, 10)},
        )
    write("base_loss-base", "sample", prompt="Once", text=" upon | a ``` time")
    evaluated("base_loss", "base", tasks={}, bpb={"train": 0.8, "val": 0.9123})
