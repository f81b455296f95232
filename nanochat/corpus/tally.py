"""Count how many rows of files became documents, how many were left out, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat.console import UserError, warn
from nanochat.paths import base_dir

NO_TEXT = "no text"  # the reason for leaving out a file that is not text
NAMED = 20  # bad rows that are named one by one; the rest is only counted


class BadText(UserError):
    """A row or a file that is not text. reason: a few words for it in a summary."""

    def __init__(self, problem: str, remedy: str, reason: str):
        super().__init__(problem, remedy)
        self.reason = reason


def again(path: Path) -> str:
    """The remedy for a damaged file; files under the base dir can be made or downloaded again."""
    if path.absolute().is_relative_to(base_dir().absolute()):
        return f"Delete {path} and run the command again"
    return "The file may be damaged or cut short; get it again"


def unreadable(path: Path, error: Exception, remedy: str) -> BadText:
    """The error to raise when reading a file failed with `error`."""
    reason = (getattr(error, "strerror", None) or str(error)).split("\n")[0][:150]
    return BadText(f"cannot read {path} ({reason})", remedy, "files that could not be read to their end")


@dataclass
class Tally:
    """Counts of one import.

    skip_bad: leave bad rows out, naming the first ones, instead of stopping at the first.
    documents, characters: what was kept. cut: rows so long that they became several documents.
    halved: rows with an unpaired surrogate, which JSON allows and UTF-8 does not; it became a ?.
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
        """Raise `error`, or with skip_bad count the `count` bad rows that it describes."""
        if not self.skip_bad:
            raise error
        self.drop(error.reason, count)
        self._named += 1
        if self._named <= NAMED:
            warn(f"left out: {error.problem}")
        elif self._named == NAMED + 1:
            warn("left out: more rows, counted but no longer named one by one")

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
