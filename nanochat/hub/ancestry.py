"""A model and the ones that it was made from, with what was recorded of each: never of another run of the same tag."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.metrics import FILE, last, read_metrics, training_file
from nanochat.paths import STAGES, model_runs_dir, write_json
from nanochat.reading import MB, fits, read_json

STATE = "train_state.json"
LONGEST_STATE = 8 * MB
ORIGIN = "origin.json"  # beside the metrics of a model that was brought from the Hub
MOST = 12  # generations; a longer chain is a circle that somebody made


@dataclass(frozen=True)
class Ancestor:
    """A checkpoint. config, state: of its files; settings: of its training's metrics; {} where there are none.

    origin: the Hub repository that it was brought from, as hf://owner/name; "" when that is not known.
    measured: by the training at this step, by name. evaluations: records of evaluations of these very weights.
    """

    stage: str
    tag: str
    step: int = -1
    hash: str = ""
    params: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    evaluations: tuple[Mapping[str, Any], ...] = ()
    origin: str = ""

    @property
    def used(self) -> Mapping[str, Any]:
        """The settings that decided the result, as the checkpoint has them."""
        found = self.state.get("settings")
        return found if isinstance(found, dict) else {}


def ancestry(stage: str, tag: str, folder: Path | None) -> list[Ancestor]:
    """The model in a checkpoint's folder, after those that it was made from and that are on this machine.

    An ancestor counts only if its weights have the hash that the training recorded. folder: None for a model of which
    only stage and tag are known.
    """
    found: list[Ancestor] = []
    place = folder
    while place is not None and len(found) < MOST:
        one = _read(stage, tag, place)
        found.insert(0, one)
        place = _parent(one)
        if place is not None:
            stage, tag = checkpoint.read_manifest(place).stage, place.parent.name
    return found or [Ancestor(stage, tag)]


def _read(stage: str, tag: str, folder: Path) -> Ancestor:
    try:
        manifest = checkpoint.read_manifest(folder)
    except UserError:
        return Ancestor(stage, tag, config=_values(folder / "config.json"))
    records = _records(training_file(stage, tag))
    state = _values(folder / STATE)
    if not _of_this_run(records, state, manifest.step):
        records = []
    settings = last(records, "settings") or {}
    rows = [r for r in records if r["kind"] == "eval" and r.get("step") == manifest.step]
    measured = {k: float(v) for r in rows for k, v in r.items() if fits(v, float)}
    return Ancestor(
        stage,
        tag,
        manifest.step,
        manifest.hash,
        _params(folder),
        _values(folder / "config.json"),
        state,
        settings,
        measured,
        tuple(_evaluations(stage, tag, manifest.hash)),
        _origin(stage, tag, manifest.hash),
    )


def note_origin(stage: str, tag: str, weights: str, repo: str) -> None:
    """Remember from which repository, `owner/name`, the weights with this hash came."""
    write_json(model_runs_dir(stage, tag) / ORIGIN, {"version": 1, "repo": f"hf://{repo}", "weights": weights})


def _origin(stage: str, tag: str, weights: str) -> str:
    told = _values(model_runs_dir(stage, tag) / ORIGIN)
    return str(told.get("repo")) if told.get("weights") == weights else ""


def _params(folder: Path) -> int:
    try:
        return sum(math.prod(tensor.shape) for tensor in checkpoint.read_header(folder / "model.safetensors").values())
    except UserError:
        return 0


def _of_this_run(records: list[dict[str, Any]], state: Mapping[str, Any], step: int) -> bool:
    """Whether metrics belong to a checkpoint: those of another run of the tag may lie there."""
    told, used = last(records, "settings") or {}, state.get("settings")
    if not isinstance(used, dict) or told.get("rates") != state.get("rates"):
        return False
    # These two are recorded in another form.
    same = all(told.get(name, value) == value for name, value in used.items() if name not in ("dtype", "mixture"))
    at = [r.get("tokens", state.get("tokens")) for r in records if r["kind"] == "step" and r.get("step") == step]
    return same and at == [state.get("tokens")]


def _evaluations(stage: str, tag: str, weights: str) -> Iterator[Mapping[str, Any]]:
    for path in sorted(model_runs_dir(stage, tag).glob(f"*/{FILE}")):
        for record in _records(path):
            model = record.get("checkpoint")
            if record["kind"] == "eval" and isinstance(model, dict) and model.get("hash") == weights:
                yield record


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        return read_metrics(path) if path.is_file() else []
    except (OSError, UserError, ValueError, OverflowError):  # of a newer version, or a number of 5,000 digits
        return []


def _values(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path, LONGEST_STATE, finite=False)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _parent(one: Ancestor) -> Path | None:
    """The checkpoint that a model was trained from, if it is on this machine."""
    weights = one.used.get("parent")
    if not isinstance(weights, str) or not weights or weights == one.hash:
        return None
    told = one.state.get("parent")
    places = [Path(told)] if isinstance(told, str) and told.isprintable() else []
    for stage in reversed(STAGES):
        try:
            places += checkpoint.steps(stage, one.tag).values()
        except UserError:
            continue
    for place in places:
        try:
            if checkpoint.read_manifest(place).hash == weights:
                return place
        except (UserError, OSError, ValueError):
            continue
    return None
