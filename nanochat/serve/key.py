"""Which key a server has: one that the person gave, or, on a rented pod, one that it makes and keeps."""

from __future__ import annotations

import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from nanochat.console import UserError, warn
from nanochat.paths import base_dir

VARIABLE = "NANOCHAT_API_KEY"
LONGEST = 512  # characters
WEAK = 16  # a shorter one can be guessed
MADE = re.compile(r"[A-Za-z0-9_-]{43}")


def choose_key(flag: str | None, no_auth: bool, loopback: bool, on_pod: bool) -> tuple[str, bool]:
    """The key, "" for none, and whether the server made it. UserError when strangers would be let in by accident.

    flag: what was given as --api-key. loopback: the server listens to its own machine alone.
    """
    given = _given(flag)
    if no_auth:
        if given is not None:
            raise UserError(
                "a key and --no-auth exclude each other", f"Leave out --no-auth, or --api-key and {VARIABLE}"
            )
        return "", False
    if given is not None:
        if len(given) < WEAK:
            warn(f"warning: a key of {len(given)} characters can be guessed; take {WEAK} random ones or more")
        return given, False
    if loopback:
        return "", False
    if on_pod:
        return _kept(), True
    raise UserError(
        "everyone who reaches this address could use the model",
        f"Set a key ({VARIABLE}, or --api-key)",
        "Allow that with --no-auth",
    )


def _given(flag: str | None) -> str | None:
    """From the flag or the environment. UserError, which does not show it, if no client could send it."""
    key = os.environ.get(VARIABLE) if flag is None else flag
    where = VARIABLE if flag is None else "--api-key"
    if key is None:
        return None
    if not key.strip():
        raise UserError(f"the key of {where} is empty", f"Give one, or leave {where} out")
    if not all("!" <= c <= "~" for c in key):
        raise UserError(
            f"the key of {where} has spaces or characters that a header cannot hold",
            "Take letters, digits and signs of ASCII",
        )
    if len(key) > LONGEST:
        raise UserError(f"the key of {where} has more than {LONGEST} characters", "Take a shorter one")
    return key


def _kept() -> str:
    """The key that was made at the first start, so that a link goes on working after a restart.

    Only its owner may read the file. Where the file system cannot promise that, each start makes a new key.
    """
    path = base_dir() / "server_key"
    with suppress(OSError, ValueError):
        return _read(path)
    key = secrets.token_urlsafe(32)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with suppress(OSError):
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                _check(file.fileno())  # before the key is in it: some file systems know no modes
                file.write(key)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return key


def _read(path: Path) -> str:
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))) as file:
        _check(file.fileno())
        key = file.read(100)
    if not MADE.fullmatch(key):
        raise ValueError
    return key


def _check(file: int) -> None:
    """PermissionError if another user may read or write the file."""
    facts = os.fstat(file)
    private = os.name != "posix" or (not facts.st_mode & 0o077 and facts.st_uid == os.getuid())
    if not private or not stat.S_ISREG(facts.st_mode):
        raise PermissionError
