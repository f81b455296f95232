"""What a check finds: ok, a warning, or a reason to stop, and what to do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from nanochat.hub.targets import SECRET, SHORTEST_SECRET

State = Literal["ok", "warning", "stop"]
STATES: tuple[State, ...] = get_args(State)  # from good to bad
LONGEST = 600  # characters of what is found, or of a remedy
HUB_TOKEN = re.compile(r"\bhf_\w{4,}", re.ASCII)


@dataclass(frozen=True)
class Finding:
    """facts: numbers for other checks."""

    state: State
    found: str
    remedy: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def ok(found: str, **facts: Any) -> Finding:
    return Finding("ok", found, facts=facts)


def warning(found: str, remedy: str) -> Finding:
    return Finding("warning", found, remedy)


def stop(found: str, remedy: str) -> Finding:
    return Finding("stop", found, remedy)


def together(findings: Iterable[Finding]) -> Finding:
    """One finding: the worst comes first, and decides."""
    ordered = sorted(findings, key=lambda one: -STATES.index(one.state))
    found = "; ".join(one.found.rstrip(".") for one in ordered if one.found)
    remedy = ". ".join(dict.fromkeys(one.remedy.rstrip(".") for one in ordered if one.remedy))
    facts = {name: value for one in ordered for name, value in one.facts.items()}
    return Finding(ordered[0].state, found, remedy, facts)


def clean(text: str) -> str:
    """One line of printable characters, without what the environment keeps secret: drivers, servers and other programs
    wrote parts of it."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, "***")
    text = HUB_TOKEN.sub("hf_***", text)
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
