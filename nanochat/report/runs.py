"""The runs' metrics, as the report needs them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.metrics import FILE, last, newest, read_metrics
from nanochat.report.records import Record, cleaned
from nanochat.report.values import number

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
# The run that a stage of the pipeline leaves, where their names differ.
COVERS = {
    "base_loss": ("base_loss-base",),
    "base_eval": ("base_eval-base",),
    "mid_eval": ("chat_eval-mid",),
    "chat_eval": ("chat_eval-sft",),
}
SET_ASIDE = ".previous-"


def tags(folder: Path, aside: bool = False) -> list[str]:
    """Tags of the models that have metrics, newest first. aside: also those that were set aside."""
    written: dict[str, float] = {}
    for path in (*folder.glob(f"*/{FILE}"), *folder.glob(f"*/*/{FILE}")):
        stage, dash, tag = path.relative_to(folder).parts[0].partition("-")
        if stage in TRAINING and dash and (aside or SET_ASIDE not in tag):
            with suppress(FileNotFoundError):  # set aside since it was listed
                written[tag] = max(written.get(tag, 0.0), path.stat().st_mtime)
    for stage, tag in _old_layout(folder, []):
        written.setdefault(tag, (folder / TRAINING[stage] / FILE).stat().st_mtime)
    return sorted(written, key=lambda tag: (written[tag], tag), reverse=True)


def _old_layout(folder: Path, problems: list[str]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Trainings by versions that had one file for all tags of a stage, by stage and tag."""
    found = {}
    for stage, command in TRAINING.items():
        records = _read(folder / command / FILE, problems)
        if records:
            found[stage, str((last(records, "settings") or {}).get("tag", ""))] = records
    return found


def _read(path: Path, problems: list[str]) -> list[dict[str, Any]]:
    """A file that cannot be read counts as empty, and is told."""
    try:
        return read_metrics(path)
    except (UserError, OSError) as error:
        why = error.problem if isinstance(error, UserError) else error.strerror
        where = f"{path.parent.name}/{path.name}"  # the page may be shown to people who need not know the folder
        problems.append(f"{where} is left out: {why}".replace(str(path), where))
        return []


@dataclass(frozen=True)
class Runs:
    """Records of every run that concerns a model, by the run's name. tag: the model's; "" if there is none. others:
    tags of further models. problems: what could not be read."""

    records: Mapping[str, Sequence[Record]]
    tag: str = ""
    others: Sequence[str] = ()
    problems: Sequence[str] = ()
    _series: dict[tuple[str, ...], list[tuple[float, float]]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def read(cls, folder: Path, tag: str = "") -> Runs:
        """tag: "" for the model that left metrics last. UserError when there is none of that tag."""
        have = tags(folder)
        if tag and tag not in tags(folder, aside=True):
            known = f"Choose one of: {', '.join(have)}" if have else "Train one first"
            raise UserError(f"no run of a model with the tag {tag!r} has left metrics under {folder}", known)
        tag = tag or next(iter(have), "")
        problems: list[str] = []
        found: dict[str, list[dict[str, Any]]] = {}
        for path in sorted(folder.glob(f"*/{FILE}")):
            name = path.parent.name
            if name.partition("-")[0] not in TRAINING and name not in TRAINING.values():
                found[name] = [r for r in _read(path, problems) if _is_of(r, tag)]
        old = _old_layout(folder, problems)
        for stage, command in TRAINING.items():
            own = folder / f"{stage}-{tag}"
            # A run that began in one layout may have continued in the other.
            found[command] = newest([*old.get((stage, tag), []), *_read(own / FILE, problems)])
            for path in sorted(own.glob(f"*/{FILE}")):
                name = f"{path.parent.name}-{stage}"  # the old layout's name for its folder of all tags
                found[name] = [*found.get(name, []), *_read(path, problems)]
        names = sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
        records = {name: _cleaned(name, found[name], problems) for name in names if found[name]}
        return cls(records, tag, [other for other in have if other != tag], problems)

    def last(self, run: str, kind: str) -> Record | None:
        return next((r for r in reversed(self.records.get(run, [])) if r["kind"] == kind), None)

    def settings(self, stage: str) -> Record:
        """Of a stage's training; {} when it left none."""
        return self.last(TRAINING[stage], "settings") or {}

    def series(self, run: str, kind: str, value: str, over: str = "tokens") -> list[tuple[float, float]]:
        """(tokens, value) by step; kept, since several parts of a report ask for it."""
        key = (run, kind, value, over)
        if key not in self._series:
            rows = (r for r in self.records.get(run, []) if r["kind"] == kind and "step" in r)
            self._series[key] = [(r[over], r[value]) for r in rows if value in r and over in r]
        return self._series[key]

    def evaluations(self, stage: str) -> Iterator[Record]:
        """The results of every evaluation command for a stage's newest model, one record for each command.

        Several calls for different tasks of the same model are merged. Those from before the training began are of an
        older model and left out.
        """
        for _, records in self._measured(stage):
            merged: dict[str, Any] = {}
            for r in records:
                if r["kind"] == "eval":
                    merged |= {**r, "tasks": {**merged.get("tasks", {}), **r.get("tasks", {})}}
            yield merged

    def _measured(self, stage: str) -> Iterator[tuple[str, list[Record]]]:
        """The evaluations of a stage's newest model, and the samples that each wrote before its result, by run."""
        began = self.settings(stage).get("time", 0)
        for run, records in self.records.items():
            latest = self.last(run, "eval")
            if not run.endswith(f"-{stage}") or (latest or {}).get("time", began) < began:
                continue
            kept: list[Record] = []
            batch: list[Record] = []
            for r in records:
                batch.append(r)
                if r["kind"] == "eval":
                    kept += batch if latest and r.get("checkpoint") == latest.get("checkpoint") else []
                    batch = []
            yield run, kept + batch

    def val_bpb(self, stage: str) -> float | None:
        """As measured by an evaluation, else by the training itself."""
        for record in self.evaluations(stage):
            if (value := number(record.get("bpb", {}).get("val"))) is not None:
                return value
        return self.own_validation(stage, "val_bpb")

    def own_validation(self, stage: str, field: str) -> float | None:
        """val_bpb or val_loss, as the training measured it last."""
        for record in reversed(self.records.get(TRAINING[stage], [])):
            if record["kind"] in ("summary", "eval"):  # the summary is older if a longer run was stopped
                return number(record.get(field))
        return None

    def samples(self, stage: str) -> list[Record]:
        """The texts that a stage's newest model wrote in the newest evaluation of each kind and task, each once."""
        found: dict[tuple[str, str], Record] = {}
        for _, records in self._measured(stage):
            newest: dict[str, list[Record]] = {}  # by task
            batch: dict[str, list[Record]] = {}
            for r in records:
                if r["kind"] == "sample" and "text" in r:
                    batch.setdefault(r.get("task", ""), []).append(r)
                elif r["kind"] == "eval":
                    newest, batch = newest | batch, {}
            for some in (newest | batch).values():
                found |= {(r.get("prompt", ""), r["text"]): r for r in some}
        return list(found.values())


def _cleaned(name: str, records: Sequence[Record], problems: list[str]) -> list[Record]:
    kept: list[Record] = []
    wrong = Counter[str]()
    for record in records:
        good, left_out = cleaned(record)
        kept.append(good)
        wrong.update(left_out)
    if wrong:
        told = ", ".join(f"{field} ({times:,} times)" for field, times in wrong.most_common(5))
        problems.append(f"{name}: values that are not what they should be are left out: {told}")
    return kept


def tag_of(record: Record, unknown: str) -> str:
    """The model that a stage of a speedrun was for; an older version wrote only its command."""
    told = re.search(r"--model_tag=(\S+)", str(record.get("command", "")))
    return str(record.get("tag") or (told[1] if told else unknown))


def _is_of(record: Record, tag: str) -> bool:
    """Whether an evaluation of the old layout is of this model; samples there do not say."""
    model = record.get("checkpoint")
    return not isinstance(model, Mapping) or model.get("tag", tag) == tag
