"""What people ask an assistant about itself, and what it may answer. The texts stand in phrases.toml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nanochat.synthetic.tinyworld.wording import read_toml


@dataclass(frozen=True)
class Intent:
    questions: tuple[str, ...]
    answers: tuple[str, ...]


_FILE = read_toml(Path(__file__).with_name("phrases.toml"))


def _intents(group: str) -> tuple[Intent, ...]:
    return tuple(Intent(**entry) for entry in _FILE[group])


OTHERS: tuple[tuple[str, str], ...] = _FILE["others"]  # assistants, each with its maker
PREFIXES: tuple[str, ...] = _FILE["prefixes"]
SUFFIXES: tuple[str, ...] = _FILE["suffixes"]
LINKS: tuple[str, ...] = _FILE["links"]
TAILS: tuple[str, ...] = _FILE["tails"]
SYSTEMS: tuple[str, ...] = _FILE["systems"]
GOODBYE = Intent(**_FILE["goodbye"])
TALK = _intents("talk")

# How often each kind of question is asked: who it is must be learned best.
GROUPS: tuple[tuple[tuple[Intent, ...], float], ...] = (
    (_intents("who"), 0.28),
    (_intents("not_another"), 0.24),
    (_intents("abilities"), 0.18),
    (_intents("nature"), 0.12),
    (_intents("making"), 0.10),
    (TALK, 0.08),
)
