"""What a backup says about itself: nanochat-backup.json at its top, and who is writing to it."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import nanochat
from nanochat.console import UserError, require_version
from nanochat.hub.targets import Target, spare_of
from nanochat.paths import base_dir, is_inside
from nanochat.reading import MB, fits, parse_json

FORMAT_VERSION = 1
FILE = "nanochat-backup.json"
LEASE = "nanochat-backup-writer.json"
LARGEST = 64 * MB
SHA256 = re.compile(r"[0-9a-f]{64}")
BEAT = 20.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which a writer counts as dead


@dataclass
class Marker:
    """runs: "base/d4" -> what tells its run from others (see `backup.run_id`). files: hashes of the small files, by
    path: {"size", "sha256", "was"?}, `was` being the hash of what is replaced, until that is done. moving: a folder of
    an older run that is being renamed -> its new tag. commands: what was typed, by "stage/tag" or "speedrun".
    writer: who took over a backup that has no sign of life of its own (`Writer`)."""

    runs: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    moving: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    writer: dict[str, str] = field(default_factory=dict)
    nanochat: str = nanochat.__version__
    format_version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def read_marker(target: Target) -> Marker | None:
    """None when there is none. UserError when it is damaged or of a newer version."""
    try:
        values = parse_json(target.read(FILE, LARGEST).decode())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        try:
            values = parse_json(target.read(spare_of(FILE), LARGEST).decode())
        except (FileNotFoundError, ValueError, RecursionError):
            raise UserError(f"{FILE} in {target.url} cannot be read: {error}", "Name another backup") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    require_version(version, FORMAT_VERSION, f"the backup {target.url}")
    try:
        marker = Marker(
            **{name: values[name] for name in ("runs", "files", "moving", "commands", "writer") if name in values}
        )
        plain = (marker.runs, marker.moving, marker.commands, marker.writer)
        if not all(fits(table, dict[str, str]) for table in plain) or not fits(marker.files, dict[str, dict]):
            raise ValueError("a table has another form")
        for path, facts in marker.files.items():
            hashes = [facts.get("sha256"), facts.get("was", "0" * 64)]
            if not is_inside(path) or not fits(facts.get("size"), int) or facts["size"] < 0:
                raise ValueError("a file is not described")
            if not all(isinstance(text, str) and SHA256.fullmatch(text) for text in hashes):
                raise ValueError("a file has no hash")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{FILE} in {target.url} is damaged: {error}", "Name another backup") from None
    return marker


class Superseded(Exception):
    """Another process writes to this backup now."""


class Writer:
    """This process's claim to a backup: a small file there that says who writes, renewed every few seconds.

    A target that cannot take one so often (the Hub) is claimed by its marker: whoever comes later takes it over, and
    the earlier one finds that out before its next commit.
    """

    def __init__(self, target: Target, say: Callable[[str], None]) -> None:
        self.target, self.say = target, say
        self.me = {
            "id": secrets.token_hex(8),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "base": str(base_dir().resolve()),
        }
        self._next = 0.0

    def claim(self, wait: Callable[[float], None] = time.sleep) -> None:
        """Become the writer. UserError when another one is at work. The caller holds this machine's lock for this
        base dir and target, so an earlier process with both has ended."""
        if self.target.beats:
            other = self._other()
            if other and not self._is_our_past(other) and time.time() - float(other["time"]) < SILENCE:
                where = f"{str(other.get('host'))[:60]} ({str(other.get('base'))[:200]})"
                self.say(
                    f"a backup from {where} wrote to {self.target.url} a moment ago: waiting whether it still does"
                )
                began, first = time.monotonic(), other
                while other and time.monotonic() - began < SILENCE:
                    wait(1.0)
                    other = self._other()
                    if other and other != first:
                        problem = f"another backup, from {where}, writes to {self.target.url}"
                        raise UserError(problem, "Give this one another --backup, or wait for that one's end")
        self._next = 0.0
        self.beat(check=False)

    def sign(self, marker: Marker) -> bool:
        """Claim by the marker where there is no other way; whether it has to be written for that."""
        if self.target.beats:
            return False
        if marker.writer and not self._is_our_past(marker.writer):
            since = f"{marker.writer.get('host', '')[:60]} ({marker.writer.get('base', '')[:200]})"
            self.say(f"{self.target.url} was last written from {since}: taking it over; if that is at work, it stops")
        marker.writer = {name: str(value) for name, value in self.me.items()}
        return True

    def require_mine(self) -> None:
        """Superseded when another process has signed the marker since."""
        if not self.target.beats and (marker := read_marker(self.target)) and marker.writer.get("id") != self.me["id"]:
            raise Superseded(f"a backup from {marker.writer.get('host', '')[:60]} has taken {self.target.url} over")

    def beat(self, check: bool = True) -> None:
        """Give the sign of life when it is due. Superseded when another process has taken the backup over."""
        if not self.target.beats or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + BEAT
        if check and (other := self._other()):
            raise Superseded(f"a backup from {str(other.get('host'))[:60]} has taken {self.target.url} over")
        self.target.write(LEASE, json.dumps({**self.me, "time": round(time.time(), 3)}).encode())

    def leave(self) -> None:
        """Let another process write at once."""
        if self.target.beats and not self._other():
            self.target.write(LEASE, json.dumps({**self.me, "time": 0.0}).encode())

    def _other(self) -> dict[str, Any] | None:
        """Who else has claimed the backup last."""
        try:
            found = parse_json(self.target.read(LEASE, MB).decode())
        except (FileNotFoundError, ValueError):
            return None
        if not isinstance(found, dict) or not fits(found.get("time"), float) or found.get("id") == self.me["id"]:
            return None
        return found

    def _is_our_past(self, other: Mapping[str, Any]) -> bool:
        return (other.get("host"), other.get("base")) == (self.me["host"], self.me["base"])
