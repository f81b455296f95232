"""The limits of a run, its result, and how well it is walled in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from nanochat.console import UserError

MIB = 1 << 20
LEAST_MEMORY = 64 * MIB  # twice the address space that an idle Python takes

Status = Literal["ok", "error", "timeout", "memory", "output", "killed"]


class Level(IntEnum):
    """How well a program is walled in, the best level last."""

    LIMITS = 1
    SECCOMP = 2
    LANDLOCK = 3
    BUBBLEWRAP = 4
    NAMESPACES = 5

    @property
    def meaning(self) -> str:
        return {
            Level.LIMITS: "resource limits alone: a program can read and write your files and use the network",
            Level.SECCOMP: "system calls filtered: a program can read and write your files",
            Level.LANDLOCK: "system calls filtered, files closed, but it shares this system's namespaces",
            Level.BUBBLEWRAP: "namespaces of bubblewrap, files closed, system calls filtered",
            Level.NAMESPACES: "namespaces of its own for every run, system calls filtered",
        }[self]


STRICT = Level.BUBBLEWRAP  # the lowest level that `require_sandbox` accepts


@dataclass(frozen=True)
class Limits:
    """What one run may use. More than one process needs Level.NAMESPACES, and so do threads."""

    seconds: float = 5.0
    """wall-clock time"""
    cpu: float = 5.0
    """CPU time of each process in seconds, rounded up to whole ones"""
    memory: int = 512 * MIB
    """bytes of address space; several processes get equal parts of it"""
    output: int = MIB
    """bytes of stdout, of stderr, and of each answer in a check"""
    disk: int = 16 * MIB
    """bytes of its temporary folder"""
    processes: int = 1
    """processes at once; 1: it can start none"""
    threads: int = 16
    """threads besides the main one in a run with one process; with more, threads count as `processes`"""

    def __post_init__(self) -> None:
        for name in ("seconds", "cpu", "output", "disk", "processes"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"the sandbox's limit {name} is {getattr(self, name)}", "Give a positive number")
        if self.threads < 0:
            raise UserError(f"the sandbox's limit threads is {self.threads}", "Give 0 or more")
        if self.memory_each < LEAST_MEMORY:
            need = f"{LEAST_MEMORY // MIB} MiB for each process"
            raise UserError(f"the sandbox's limit memory is {self.memory / MIB:.0f} MiB", f"Give at least {need}")

    @property
    def memory_each(self) -> int:
        return self.memory // self.processes

    @property
    def tasks(self) -> int:
        """Processes and threads together that may exist at once."""
        return self.processes if self.processes > 1 else 1 + self.threads


@dataclass(frozen=True)
class Result:
    """How a run ended. "ok" says that the program ended by itself with exit code 0, which any program can do.

    stdout: its first `limits.output` bytes, and stderr: its last 4,096, both as text that is safe to print (no control
    characters but newline and tab). seconds: wall-clock time.
    """

    status: Status
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == "ok"
