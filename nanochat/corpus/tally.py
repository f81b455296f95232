"""What became of the rows of files: how many are documents, how many were left out, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.console import UserError, warn
from nanochat.paths import base_dir

NO_TEXT = "no text"  # why a whole file is left out that is something else
NAMED = 20  # bad rows that are named one by one; the rest is only counted


class BadText(UserError):
    """A row or a file that is no text. reason: a few words that a summary counts it under."""

    def __init__(self, problem: str, remedy: str, reason: str):
        super().__init__(problem, remedy)
        self.reason = reason


def again(path: Path) -> str:
    """What to do about a damaged file: those under the base dir were made or downloaded, which is done again."""
    if path.absolute().is_relative_to(base_dir().absolute()):
        return f"Delete {path} and run the command again"
    return "The file may be damaged or cut short; get it again"


def unreadable(path: Path, error: Exception, remedy: str) -> BadText:
    """What to raise about a file when reading it failed with `error`."""
    reason = (getattr(error, "strerror", None) or str(error)).split("\n")[0][:150]
    return BadText(f"cannot read {path} ({reason})", remedy, "files that could not be read to their end")


@dataclass
class Tally:
    """Counts of one import.

    skip_bad: leave bad rows out, naming the first ones, instead of stopping at the first.
    documents, characters: what was kept. cut: rows so long that they became several documents.
    halved: rows with half of a surrogate pair, which JSON can spell and UTF-8 cannot hold, so that it became a ?.
    dropped: what was left out, by reason.
    """

    skip_bad: bool = False
    documents: int = 0
    characters: int = 0
    cut: int = 0
    halved: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    _named: int = 0

    def drop(self, reason: str, count: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def bad(self, error: BadText, count: int = 1) -> None:
        """`count` bad rows, which `error` describes: raises it, or counts them when bad ones are to be skipped."""
        if not self.skip_bad:
            raise error
        self.drop(error.reason, count)
        self._named += 1
        if self._named <= NAMED:
            warn(f"left out: {error.problem}")
        elif self._named == NAMED + 1:
            warn("left out: more, which are counted and no longer named")

    def to_json(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "characters": self.characters,
            "cut": self.cut,
            "halved": self.halved,
            "dropped": dict(sorted(self.dropped.items())),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Tally:
        return cls(False, data["documents"], data["characters"], data["cut"], data.get("halved", 0), data["dropped"])

    def summary(self) -> str:
        """One line: documents and characters, what was cut, what was left out and why."""
        line = f"{self.documents:,} documents"
        if self.characters:
            line += f", {self.characters:,} characters"
        if self.cut:
            line += f"; {self.cut:,} long ones were cut into several"
        if self.halved:
            line += f"; {self.halved:,} have a ? for half a character (an unpaired surrogate)"
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()))
        return f"{line}; left out: {reasons or 'nothing'}"
