"""Rows of JSON files: one value a line, or all of them as one list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.corpus.decoding import AROUND, not_utf8, read_text, utf8_blocks
from nanochat.corpus.tally import BadText, Tally

LINE_LIMIT = 1 << 30  # bytes of a line, which is held in memory
OPENINGS = ("[", "{", "[{")  # a first line that begins a JSON value of many lines


def json_rows(path: Path, tally: Tally) -> Iterator[tuple[str, Any]]:
    """Yield (place for errors, value) of every row; the tally decides about unreadable ones.

    A row is a line that is not blank, or an entry of a list of rows when the file is one JSON value.
    """
    first = True
    for number, (offset, line) in enumerate(_lines(path), 1):
        place = f"line {number} of {path}"
        if first and line and line.strip().lstrip(b"\xef\xbb\xbf").decode("utf-8", "replace") in OPENINGS:
            yield from _whole_file(path)
            return
        try:
            text = _text(line, offset, path, place, advise=not tally.skip_bad)
            if not text.strip():
                continue
            value = _value(text, place)
        except BadText as error:
            tally.bad(error)
            first = False
            continue
        if first and _is_list_of_rows(value):
            yield from _entries(value, path)
        else:
            yield place, value
        first = False


def _whole_file(path: Path) -> Iterator[tuple[str, Any]]:
    value = _value(read_text(path), str(path))
    if _is_list_of_rows(value):
        yield from _entries(value, path)
    else:
        yield str(path), value


def _is_list_of_rows(value: Any) -> bool:
    """Whether this is a list of rows, not a row itself: a conversation may be a bare list of messages."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, list) or (isinstance(first, dict) and "role" not in first)


def _entries(rows: list[Any], path: Path) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(rows, 1):
        yield f"entry {number} of {path}", row


def _value(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadText(f"{place} is not JSON ({error})", "Write one JSON object a line", "not JSON") from None


def _text(line: bytes | None, offset: int, path: Path, place: str, advise: bool) -> str:
    if line is None:
        raise BadText(f"{place} is longer than {LINE_LIMIT:,} bytes", "Cut it into several", "lines too long")
    try:
        return line.decode("utf-8").lstrip("\ufeff")  # also on later lines, if files were concatenated
    except UnicodeDecodeError as error:
        around = line[max(0, error.start - AROUND) : error.start + AROUND] if advise else b""
        raise not_utf8(path, offset + error.start, "not UTF-8", around) from None


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yield (offset in the text, bytes) of every line; None as bytes above LINE_LIMIT."""
    parts: list[bytes] = []  # of the line that is being read
    size, offset = 0, 0
    old_mac: bool | None = None  # whether lines end in a carriage return alone
    for block in utf8_blocks(path):
        old_mac = b"\r" in block and b"\n" not in block if old_mac is None else old_mac
        block = block.replace(b"\r", b"\n") if old_mac else block
        *ends, rest = block.split(b"\n")
        for end in ends:
            size += len(end) + 1
            line = b"".join([*parts, end]) if size <= LINE_LIMIT else None
            parts = []  # freed before the line is used, since it may be large
            yield offset, line
            offset, size = offset + size, 0
        size += len(rest)
        if size <= LINE_LIMIT:
            parts.append(rest)
        else:
            parts.clear()
    yield offset, b"".join(parts) if size <= LINE_LIMIT else None
