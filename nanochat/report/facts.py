"""The code that a report is made with: what of it there is to read, as the seed counts it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import nanochat

KINDS = {".py", ".md", ".rs", ".html", ".toml", ".sh"}  # the seed's
CHARACTERS_PER_TOKEN = 4


def bloat(root: Path = Path(nanochat.__file__).parents[1]) -> dict[str, int]:
    """Characters, lines, files, tokens (about) and dependencies of a checkout; of an installed package, its own files.

    Dependencies: lines of uv.lock, as in the seed; without one, pinned packages in constraints.txt.
    """
    texts = [text for path in _files(root) if (text := _read(path)) is not None]
    characters = sum(map(len, texts))
    found = {
        "Characters": characters,
        "Lines": sum(text.count("\n") + (not text.endswith("\n")) for text in texts if text),
        "Files": len(texts),
        "Tokens (about)": characters // CHARACTERS_PER_TOKEN,
    }
    lock, pins = _read(root / "uv.lock"), _read(root / "constraints.txt")
    if lock is not None:
        return {**found, "Dependencies (uv.lock lines)": len(lock.splitlines())}
    if pins is not None:
        return {**found, "Dependencies (pinned packages)": len(re.findall(r"(?m)^[\w.-]+(?:\[.*\])?==", pins))}
    return found


def _files(root: Path) -> Iterable[Path]:
    """Without what the seed leaves out: hidden and ignored files, and names with "target"."""
    names: list[str] = []
    if (root / ".git").exists():
        try:
            listed = subprocess.run(
                ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                capture_output=True, timeout=20, check=True,
            )  # fmt: skip
            names = listed.stdout.decode(errors="surrogateescape").split("\0")
        except (OSError, subprocess.SubprocessError):
            names = []
    if not names:
        names = [path.relative_to(root).as_posix() for path in (root / "nanochat").rglob("*")]
    for name in sorted(set(names)):
        parts = Path(name).parts
        hidden = any(part.startswith(".") or "target" in part or part == "__pycache__" for part in parts)
        if Path(name).suffix in KINDS and not hidden:
            yield root / name


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    except OSError:
        return None
