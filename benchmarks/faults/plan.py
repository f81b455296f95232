"""Which faults strike a run, and when: a pure function of the seed and the run's number."""

from __future__ import annotations

import errno
import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Act = Literal["kill", "term", "stop", "hang", "fail"]

# The rows of the table. How often each is drawn, in the works that can have it.
KINDS = {
    "killed at any time": 3,
    "killed in a save": 4,
    "killed at a rename": 4,
    "killed at an fsync": 2,
    "killed while deleting": 2,
    "killed in a line of metrics": 3,
    "killed in a download": 8,
    "SIGTERM": 4,
    "disk full for a while": 3,
    "disk full to the end": 2,
    "read-only for a while": 2,
    "read-only to the end": 2,
    "truncated file": 3,
    "flipped bit": 3,
    "a rank is killed": 16,
    "a rank is frozen": 8,
    "a step never ends": 1,
}
# What is done, how often each is drawn, and the kinds it cannot have (`ranks`: those it has only with several ranks).
WORKS = {"base": 10, "extend": 2, "mid": 2, "sft": 2, "ranks": 2, "arriving": 2}
OF_RANKS = {"a rank is killed", "a rank is frozen"}
OF_DOWNLOADS = {
    "killed in a download", "killed at any time", "killed at a rename", "killed at an fsync", "SIGTERM",
    "disk full for a while", "disk full to the end", "read-only to the end",
}  # fmt: skip
MOMENTS = {  # the call at which a process is killed
    "killed in a save": "save",
    "killed at a rename": "rename",
    "killed at an fsync": "fsync",
    "killed while deleting": "delete",
    "killed in a line of metrics": "metrics",
    "killed in a download": "download",
}
MOST_TRIES = 3


@dataclass(frozen=True)
class Fault:
    """One fault of one process.

    at: the kind of call at which it strikes, or "time". share: where among the calls, or the seconds, of the
    undisturbed run. part: how much of a write still reaches the disk. after: the call is done first. code: the error of
    calls that fail. lasts: how many of them fail, 0: all from then on. process: which one of the work.
    """

    kind: str
    do: Act
    at: str
    share: float
    part: float = 0.0
    after: bool = False
    code: int = 0
    lasts: int = 0
    process: int = 0


@dataclass(frozen=True)
class Damage:
    """A file of a checkpoint changes between two tries. All are shares: which checkpoint, file and place in it."""

    kind: str
    checkpoint: float
    file: float
    place: float


@dataclass(frozen=True)
class Try:
    """The command is started; faults strike it, and its checkpoints afterwards."""

    faults: tuple[Fault, ...]
    damage: tuple[Damage, ...] = ()


@dataclass(frozen=True)
class Plan:
    number: int
    work: str
    tries: tuple[Try, ...]


def make_plan(seed: int, number: int, works: Collection[str] = (), kinds: Collection[str] = ()) -> Plan:
    """works, kinds: draw only these."""
    rng = random.Random(f"{seed} {number}")
    chosen = {work: weight for work, weight in WORKS.items() if not works or work in works}
    possible = {work: weight for work, weight in chosen.items() if kinds_of(work, kinds)}
    work = rng.choices([*possible], [*possible.values()])[0]
    tries = rng.randint(1, MOST_TRIES)
    return Plan(number, work, tuple(_try(rng, work, kinds_of(work, kinds)) for _ in range(tries)))


def kinds_of(work: str, kinds: Collection[str] = ()) -> list[str]:
    """The faults that a work can have."""
    if work == "arriving":
        can = OF_DOWNLOADS
    elif work == "ranks":
        can = {*KINDS} - {"killed in a download", "a step never ends", "killed at any time"}
    else:
        can = {*KINDS} - OF_RANKS - {"killed in a download"}
    return [kind for kind in KINDS if kind in can and (not kinds or kind in kinds)]


def _try(rng: random.Random, work: str, kinds: list[str]) -> Try:
    kind = rng.choices(kinds, [KINDS[kind] for kind in kinds])[0]
    if kind in ("truncated file", "flipped bit"):
        how = rng.choice(["killed at any time", "killed in a save", "killed in a line of metrics"])
        end = _fault(rng, work, how if work != "ranks" else "a rank is killed")
        damage = [Damage(kind, rng.random(), rng.random(), rng.random()) for _ in range(rng.choice([1, 1, 2]))]
        return Try((end,), tuple(damage))
    faults = [_fault(rng, work, kind)]
    if kind.endswith("for a while") and rng.random() < 0.5:  # and then it is killed as well
        also = [other for other in kinds if other in MOMENTS]
        faults += [_fault(rng, work, rng.choice(also))] if also else []
    return Try(tuple(faults))


def _fault(rng: random.Random, work: str, kind: str) -> Fault:
    share, part = rng.random(), rng.random()
    process = rng.randrange(2) if work == "ranks" else int(work == "arriving")
    written = rng.choice(["save", "save", "metrics"])  # what the disk is full for
    if kind == "killed at any time":
        return Fault(kind, "kill", "time", share, process=process)
    if kind == "a rank is killed":
        return Fault(kind, "kill", rng.choice(["time", "fsync", "save"]), share, part, process=process)
    if kind == "a rank is frozen":
        # In its training: while the ranks meet, those that wait for the first one's answers would wait for ever.
        return Fault(kind, "stop", rng.choice(["fsync", "save"]), share, process=process)
    if kind == "SIGTERM":
        at = rng.choice(["time", "time", "save", "rename", "metrics"]) if work in ("base", "mid", "sft") else "time"
        return Fault(kind, "term", at, share, process=process)
    if kind == "a step never ends":
        return Fault(kind, "hang", "metrics", share)
    at = MOMENTS.get(kind, "download" if work == "arriving" else written)
    if at in ("delete", "metrics"):  # the first rank does these
        process = int(work == "arriving")
    if kind in MOMENTS:
        return Fault(kind, "kill", at, share, part, rng.random() < 0.5, process=process)
    full = kind.startswith("disk full")
    code = errno.ENOSPC if full else rng.choice([errno.EROFS, errno.EACCES])
    lasts = rng.randint(1, 12) if kind.endswith("for a while") else 0
    return Fault(kind, "fail", at, share, part if full else 0.0, code=code, lasts=lasts, process=process)
