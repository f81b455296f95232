"""What the card says of one checkpoint, in numbers; what is missing or no number is left out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.hub.ancestry import Ancestor
from nanochat.reading import fits
from nanochat.train.config import FREE, BaseConfig, ChatConfig, RLConfig

DID = {"base": "pretrained", "mid": "mid-trained on conversations", "sft": "fine-tuned", "rl": "taught by rewards"}
CONFIGS = {"base": BaseConfig, "mid": ChatConfig, "sft": ChatConfig, "rl": RLConfig}
ORDER = (
    "CORE",
    "val bpb",
    "val loss",
    "ARC-Easy",
    "ARC-Challenge",
    "MMLU",
    "GSM8K",
    "HumanEval",
    "TinyWorld",
    "SpellingBee",
)
MOST = 100  # scores that are shown
# Told elsewhere, or perhaps the name of a file.
NOT_FLAGS = {*FREE, "stage", "dataset", "mixture", "depth", "arch", "max_seq_len", "dtype"}
FLAG_VALUE = re.compile(r"[\w.-]{1,40}", re.ASCII)


@dataclass(frozen=True)
class Score:
    """interval: its 95% limits. n: questions; 0 when that is not known. kind: the Hub's id of the metric."""

    value: float
    label: str
    kind: str = "accuracy"
    interval: tuple[float, float] | None = None
    n: int = 0

    @property
    def shown(self) -> str:
        beside = [" to ".join(_digits(x, 3) for x in self.interval)] if self.interval else []
        beside += [f"n {self.n:,}"] if self.n else []
        return _digits(self.value, 4) + (f" ({', '.join(beside)})" if beside else "")


def _digits(value: float, places: int) -> str:
    return f"{value:.{places}f}" if abs(value) < 1e6 else f"{value:.4g}"


def number(value: Any) -> float:
    """A finite number of at least 0; 0 for anything else."""
    return float(value) if fits(value, float) and 0 <= value < 1e300 else 0.0


def scores(one: Ancestor) -> dict[str, Score]:
    """By name, as measured on these very weights."""
    found: dict[str, Score] = {}
    if "val_bpb" in one.measured:
        found["val bpb"] = Score(one.measured["val_bpb"], "bits per byte", "bits_per_byte")
    if "val_loss" in one.measured:
        found["val loss"] = Score(one.measured["val_loss"], "loss", "loss")
    for name, value in one.measured.items():
        if re.fullmatch(r"pass@\d{1,3}", name):
            found[f"training's own {name}"] = Score(value, name, "pass_at_k")
    for record in one.evaluations:
        bpb = record.get("bpb")
        if isinstance(bpb, dict) and fits(bpb.get("val"), float):
            found["val bpb"] = Score(float(bpb["val"]), "bits per byte", "bits_per_byte")
        for key, name in (("core", "CORE"), ("chatcore", "ChatCORE")):
            score: Any = record.get(key)
            if fits(score, float):
                found[name] = Score(float(score), f"{name} (centred accuracy)", key, _limits(record.get(f"{key}_ci95")))
        tasks = record.get("tasks")
        # CORE's 22 tasks are in its mean.
        if record.get("core") is None and isinstance(tasks, dict):
            found |= {name: graded for name, task in tasks.items() if (graded := _task(task))}
    return dict(list(found.items())[:MOST])


def _task(task: Any) -> Score | None:
    value: Any = task.get("accuracy") if isinstance(task, dict) else None
    if not fits(value, float):
        return None
    return Score(float(value), "accuracy", "accuracy", _limits(task.get("ci95")), int(number(task.get("n"))))


def _limits(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2 or not all(fits(x, float) for x in value):
        return None
    return float(value[0]), float(value[1])


def in_order(names: Iterable[str]) -> list[str]:
    unique = dict.fromkeys(names)
    return [name for name in ORDER if name in unique] + sorted(unique.keys() - {*ORDER})


def parameters(one: Ancestor) -> str:
    return f"{one.params:,} parameters" if one.params else ""


def size(one: Ancestor) -> str:
    """ "7,864,710 parameters, 4 layers and a vocabulary of 2,048 tokens"."""
    depth, vocab = number(one.config.get("depth")), number(one.config.get("vocab_size"))
    parts = [parameters(one), f"{depth:.0f} layers" if depth else ""]
    text = ", ".join(filter(None, parts))
    return f"{text} and a vocabulary of {vocab:,.0f} tokens" if text and vocab else text


def shape(one: Ancestor) -> dict[str, str]:
    """The model's sizes by what they are."""
    named = {
        "depth": "depth", "width": "width", "heads": "heads", "kv_heads": "key/value heads",
        "vocab_size": "vocabulary", "seq_len": "context (tokens)",
    }  # fmt: skip
    found = {"architecture": str(one.config["arch"])} if one.config.get("arch") in ("classic", "modern") else {}
    if one.params:
        found["parameters"] = f"{one.params:,}"
    for key, name in named.items():
        if value := number(one.config.get(key)):
            found[name] = f"{value:,.0f}"
    return found


def training(one: Ancestor) -> dict[str, str]:
    """How a stage was trained: its length, its batch, its rates, and the flags that were not left at their defaults."""
    found = {}
    for key, name in (("step", "steps"), ("tokens", "tokens"), ("batch_tokens", "tokens per step")):
        if value := number(one.state.get(key)):
            found[name] = f"{value:,.0f}"
    rates = one.state.get("rates")
    for key, value in sorted(rates.items()) if isinstance(rates, dict) else ():
        if key in ("matrix", "embedding", "head", "scalar") and number(value):
            found[f"peak rate: {key}"] = f"{value:.4g}"
        elif key == "weight_decay" and number(value):
            found["weight decay"] = f"{value:.4g}"
    if isinstance(dtype := one.settings.get("dtype"), str) and FLAG_VALUE.fullmatch(dtype):
        found["compute"] = dtype
    if flags := " ".join(_flags(one)):
        found["flags"] = flags
    return found


def _flags(one: Ancestor) -> Iterable[str]:
    horizon = one.state.get("horizon")
    chosen: Mapping[str, Any] = {**one.used, **(horizon if isinstance(horizon, dict) else {})}
    for field in dataclasses.fields(CONFIGS[one.stage]) if one.stage in CONFIGS else ():
        value = chosen.get(field.name, field.default)
        if field.name in NOT_FLAGS or value == field.default:
            continue
        if fits(value, bool | int | float) or (isinstance(value, str) and FLAG_VALUE.fullmatch(value)):
            yield f"{field.name}={value}"


def hardware(one: Ancestor) -> str:
    name, ranks = one.settings.get("machine"), number(one.settings.get("ranks"))
    if not isinstance(name, str) or not name:
        return "not recorded"
    return f"{ranks:.0f} x {name}" if ranks > 1 else name
