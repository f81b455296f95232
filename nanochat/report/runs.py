"""What the runs left behind, as the report asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanochat.metrics import last, read_metrics

Record = Mapping[str, Any]

# In the order in which a person runs them; an evaluation's folder is <command>-<stage>.
TRAINING = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft", "rl": "chat_rl"}
ORDER = (
    "dataset",
    "tok_train",
    "tok_eval",
    "base_train",
    "base_loss-base",
    "base_eval-base",
    "mid_train",
    "chat_eval-mid",
    "chat_sft",
    "chat_eval-sft",
    "chat_rl",
    "chat_eval-rl",
)


@dataclass(frozen=True)
class StageTime:
    """Seconds that a stage took, all attempts together."""

    name: str
    seconds: float
    status: str


@dataclass(frozen=True)
class Runs:
    """Records of every run by the run's name."""

    records: Mapping[str, list[Record]]

    @classmethod
    def read(cls, folder: Path) -> Runs:
        found = {path.parent.name: read_metrics(path) for path in sorted(folder.glob("*/metrics.jsonl"))}
        names = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
        return cls(
            {name: [r for r in found[name] if isinstance(r, dict) and "kind" in r] for name in names if found[name]}
        )

    def last(self, run: str, kind: str) -> Record | None:
        return last([dict(r) for r in self.records.get(run, [])], kind)

    def series(self, run: str, kind: str, field: str) -> list[tuple[float, float]]:
        """(tokens, value) by step; what a resumed run did again replaces what it had done before."""
        by_step: dict[int, tuple[float, float]] = {}
        for r in self.records.get(run, []):
            if r["kind"] == kind and "step" in r and r.get("tokens") is not None and r.get(field) is not None:
                for later in [step for step in by_step if step > r["step"]]:
                    del by_step[later]
                by_step[r["step"]] = (r["tokens"], r[field])
        return [by_step[step] for step in sorted(by_step)]

    def evaluations(self, stage: str) -> Iterator[Record]:
        """What every evaluation command found out about a stage's newest model, one record for each command.

        Several calls, each for other tasks of the same model, add up. One from before the training began was of an
        older model, and is left out.
        """
        began = (self.last(TRAINING[stage], "settings") or {}).get("time", 0)
        for run, records in self.records.items():
            newest = self.last(run, "eval")
            if newest is None or not run.endswith(f"-{stage}"):
                continue
            if newest.get("time", began) < began:
                continue
            merged: dict[str, Any] = {}
            for r in records:
                if r["kind"] == "eval" and r.get("checkpoint") == newest.get("checkpoint"):
                    merged |= {**r, "tasks": {**merged.get("tasks", {}), **r.get("tasks", {})}}
            yield merged

    def val_bpb(self, stage: str) -> float | None:
        """As measured by an evaluation, else by the training itself."""
        for record in self.evaluations(stage):
            if (value := (record.get("bpb") or {}).get("val")) is not None:
                return float(value)
        return self.own_validation(stage, "val_bpb")

    def own_validation(self, stage: str, field: str) -> float | None:
        """val_bpb or val_loss, as the training measured it last."""
        record = self.last(TRAINING[stage], "summary") or self.last(TRAINING[stage], "eval")
        return record.get(field) if record else None

    def samples(self) -> list[Record]:
        """The sampled texts that belong to the newest evaluation of each run."""
        found: list[Record] = []
        for records in self.records.values():
            batch: list[Record] = []
            fresh = True
            for r in records:
                if r["kind"] == "sample":
                    batch = [r] if fresh else [*batch, r]
                    fresh = False
                elif r["kind"] == "eval":
                    fresh = True
            found += batch
        return found

    def _with_own_clock(self, stage: StageTime) -> StageTime:
        """An interrupted training knows more of its time than the pipeline, which saw its last part."""
        own = self.last(stage.name, "summary") or {}
        return replace(stage, seconds=max(stage.seconds, float(own.get("seconds") or 0.0)))

    def stages(self) -> list[StageTime]:
        """How long everything took: by the pipeline's clock where it ran a stage, else by the run's own."""
        times: dict[str, StageTime] = {}
        for r in self.records.get("speedrun", []):
            if r["kind"] == "stage":
                before = times.get(r["stage"])
                # What came after a finished stage is that stage done anew, with other settings.
                earlier = before.seconds if before and before.status != "done" else 0.0
                seconds = earlier + float(r.get("seconds") or 0.0)
                times[r["stage"]] = StageTime(r["stage"], seconds, str(r.get("status", "")))
        if times:
            return [self._with_own_clock(stage) for stage in times.values()]
        for run in self.records:
            record = self.last(run, "summary") or self.last(run, "eval")
            if record and record.get("seconds") is not None:
                times[run] = StageTime(run, float(record["seconds"]), "done")
        return list(times.values())
