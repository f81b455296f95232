"""The runs' metrics, as the report needs them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.metrics import FILE, last, newest, read_metrics

Record = Mapping[str, Any]

# A model's stages, and the command that trains each.
TRAINING = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft", "rl": "chat_rl"}
# In the order in which a person runs them; an evaluation is called <command>-<stage> here.
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
SHARED = ("dataset", "tok_train", "tok_eval")  # stages whose results all models use
SET_ASIDE = ".previous-"


@dataclass(frozen=True)
class StageTime:
    """Seconds that a stage took, all attempts together."""

    name: str
    seconds: float
    status: str


def tags(folder: Path, aside: bool = False) -> list[str]:
    """Tags of the models that have metrics, newest first. aside: also those that were set aside."""
    written: dict[str, float] = {}
    for path in (*folder.glob(f"*/{FILE}"), *folder.glob(f"*/*/{FILE}")):
        stage, dash, tag = path.relative_to(folder).parts[0].partition("-")
        if stage in TRAINING and dash and (aside or SET_ASIDE not in tag):
            with suppress(FileNotFoundError):  # set aside since it was listed
                written[tag] = max(written.get(tag, 0.0), path.stat().st_mtime)
    for stage, tag in _old_layout(folder):
        written.setdefault(tag, (folder / TRAINING[stage] / FILE).stat().st_mtime)
    return sorted(written, key=lambda tag: (written[tag], tag), reverse=True)


def _old_layout(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Trainings by versions that had one file for all tags of a stage, by stage and tag."""
    found = {}
    for stage, command in TRAINING.items():
        records = read_metrics(folder / command / FILE)
        if records:
            found[stage, str((last(records, "settings") or {}).get("tag", ""))] = records
    return found


@dataclass(frozen=True)
class Runs:
    """Records of every run that concerns a model, by the run's name. tag: the model's; "" if there is none."""

    records: Mapping[str, Sequence[Record]]
    tag: str = ""

    @classmethod
    def read(cls, folder: Path, tag: str = "") -> Runs:
        """tag: "" for the model that left metrics last. UserError when there is none of that tag."""
        have = tags(folder)
        if tag and tag not in tags(folder, aside=True):
            known = f"Choose one of: {', '.join(have)}" if have else "Train one first"
            raise UserError(f"no run of a model with the tag {tag!r} has left metrics under {folder}", known)
        tag = tag or next(iter(have), "")
        found: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(folder.glob(f"*/{FILE}")):
            name = path.parent.name
            if name.partition("-")[0] not in TRAINING and name not in TRAINING.values():
                found[name] = [r for r in read_metrics(path) if _is_of(r, tag)]
        old = _old_layout(folder)
        for stage, command in TRAINING.items():
            own = folder / f"{stage}-{tag}"
            # A run that began in one layout may have continued in the other.
            found[command] = newest([*old.get((stage, tag), []), *read_metrics(own / FILE)])
            for path in sorted(own.glob(f"*/{FILE}")):
                name = f"{path.parent.name}-{stage}"  # the old layout's name for its folder of all tags
                found[name] = [*found.get(name, []), *read_metrics(path)]
        names = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
        return cls({name: found[name] for name in names if found[name]}, tag)

    def last(self, run: str, kind: str) -> Record | None:
        return next((r for r in reversed(self.records.get(run, [])) if r["kind"] == kind), None)

    def series(self, run: str, kind: str, field: str) -> list[tuple[float, float]]:
        """(tokens, value) by step."""
        rows = [r for r in self.records.get(run, []) if r["kind"] == kind and "step" in r]
        return [(r["tokens"], r[field]) for r in rows if r.get("tokens") is not None and r.get(field) is not None]

    def evaluations(self, stage: str) -> Iterator[Record]:
        """The results of every evaluation command for a stage's newest model, one record for each command.

        Several calls for different tasks of the same model are merged. Those from before the training began are of an
        older model and left out.
        """
        began = (self.last(TRAINING[stage], "settings") or {}).get("time", 0)
        for run, records in self.records.items():
            latest = self.last(run, "eval")
            if latest is None or not run.endswith(f"-{stage}"):
                continue
            if latest.get("time", began) < began:
                continue
            merged: dict[str, Any] = {}
            for r in records:
                if r["kind"] == "eval" and r.get("checkpoint") == latest.get("checkpoint"):
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
        for record in reversed(self.records.get(TRAINING[stage], [])):
            if record["kind"] in ("summary", "eval"):  # the summary is older if a longer run was stopped
                value: float | None = record.get(field)
                return value
        return None

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
        """Prefer a training's own time if it is longer: after an interruption the pipeline saw only the last part."""
        own = self.last(stage.name, "summary") or {}
        return replace(stage, seconds=max(stage.seconds, float(own.get("seconds") or 0.0)))

    def stages(self) -> list[StageTime]:
        """How long everything took: by the pipeline's clock where it ran a stage, else by the run's own."""
        times: dict[str, StageTime] = {}
        for r in self.records.get("speedrun", []):
            if r["kind"] == "stage" and (r["stage"] in SHARED or _tag_of(r, self.tag) == self.tag):
                before = times.get(r["stage"])
                # A record after a finished one is a new run of that stage, with other settings.
                earlier = before.seconds if before and before.status != "done" else 0.0
                seconds = earlier + float(r.get("seconds") or 0.0)
                times[r["stage"]] = StageTime(r["stage"], seconds, str(r.get("status", "")))
        by_hand = set(times) <= set(SHARED)  # the pipeline has run nothing of this model's own
        for run in self.records if by_hand else ():
            record = self.last(run, "summary") or self.last(run, "eval")
            if run not in times and record and record.get("seconds") is not None:
                times[run] = StageTime(run, float(record["seconds"]), "done")
        return [self._with_own_clock(stage) for stage in times.values()]


def _tag_of(record: Record, unknown: str) -> str:
    """The model that a stage of a speedrun was for; an older version wrote only its command."""
    told = re.search(r"--model_tag=(\S+)", str(record.get("command", "")))
    return str(record.get("tag") or (told[1] if told else unknown))


def _is_of(record: Record, tag: str) -> bool:
    """Whether an evaluation of the old layout is of this model; samples there do not say."""
    model = record.get("checkpoint")
    return not isinstance(model, Mapping) or model.get("tag", tag) == tag
