"""Files that a stranger may have written: read without waiting, up to a size, and parsed strictly.

Whatever is wrong with a file, the reading functions raise OSError or ValueError with one line that says what.
"""

from __future__ import annotations

import json
import math
import os
import stat
import types
from pathlib import Path
from typing import Any, BinaryIO, Literal, Union, get_args, get_origin

MB = 1 << 20
DIGITS = 20  # of a whole number; every 64-bit number has at most that many


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Opening a pipe would wait for a writer, and opening a device can do anything, so that
    only regular files (and links to them) are opened."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(mode) else "it is no regular file")
    # Without waiting, should it have become a pipe just now.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags), "rb")


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file of at most `limit` bytes, line ends as they are."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return data.decode("utf-8")


def read_json(path: Path, limit: int = MB, finite: bool = True) -> Any:
    """The value in a JSON file of at most `limit` bytes; see `parse_json`."""
    return parse_json(read_text(path, limit), finite)


def parse_json(text: str, finite: bool = True) -> Any:
    """The value of a JSON text. Stricter than json.loads: no key twice in an object, no number that is too large for a
    float or has more than DIGITS digits, no nesting that is too deep for Python, and (if `finite`) no NaN or Infinity.
    """
    constant = _constant if finite else float
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=constant, parse_float=_float, parse_int=_integer
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} occurs twice")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {shown(text)}, which is too large")
    return number


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"it holds a whole number of {len(text):,} digits")
    return int(text)


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a type: str, int, float (finite, and a whole number will do), bool, None, Literal[...]
    of strings, list[...], dict[str, ...], unions of these, or Any."""
    if hint is Any:
        return True
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    if origin in (list, dict):
        items = value.values() if isinstance(value, dict) else value
        return type(value) is origin and (not parts or all(fits(item, parts[-1]) for item in items))
    return type(value) is (types.NoneType if hint is None else origin)


def shown(value: Any, width: int = 60) -> str:
    """A stranger's value as one short line of printable characters, for an error."""
    text = repr(value[:width] if isinstance(value, str) else value)  # a long string need not be escaped whole
    return text if len(text) <= width else f"{text[: width - 3]}..."
