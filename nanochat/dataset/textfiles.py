"""Documents of files as people have them: txt, md, jsonl (also .gz .bz2 .zst) and parquet."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from nanochat.console import UserError
from nanochat.dataset.rows import parquet_texts, row_text
from nanochat.dataset.tally import BadText, Tally, again, unreadable

TEXT = {".txt", ".text", ".md"}
LINES = {".jsonl", ".ndjson"}
PACKED = {".gz", ".bz2", ".zst"}
KINDS = "txt, md, jsonl (each also with .gz, .bz2 or .zst) and parquet"
COLUMNS = ("text", "messages")  # where the text of a row is, unless said otherwise
LIMIT = 100_000  # characters: a longer text file becomes several documents
ROW_LIMIT = 1_000_000  # and so does a longer row of jsonl or parquet
LINE_LIMIT = 1 << 30  # bytes of a line of jsonl, which is held in memory
BLOCK = 1 << 20  # bytes read at once


def text_files(path: Path) -> list[Path]:
    """`path` itself, or every file below it that we can read, sorted; UserError when there is none."""
    if not path.exists():
        raise UserError(f"there is no file or folder {path}")
    if path.is_file():
        if not _kind(path):
            raise UserError(f"cannot read text from {path}", f"Use {KINDS}")
        return [path]
    inside = (file for file in sorted(path.rglob("*")) if file.is_file())
    files = [
        file
        for file in inside
        if _kind(file) and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        raise UserError(f"the folder {path} has no text files", f"Put in {KINDS}")
    return files


def text_size(path: Path) -> int:
    """About how many bytes of text a file holds (packed files: four times their size)."""
    size = path.stat().st_size
    return size * 4 if path.suffix.lower() in {*PACKED, ".parquet"} else size


def documents(path: Path, limit: int = LIMIT, column: str | None = None, tally: Tally | None = None) -> Iterator[str]:
    """Documents of one file; those without a visible character are left out.

    A row of parquet or a line of jsonl is a document: its `column`, or else its text, or the conversation in its
    messages. A text file is one up to `limit` characters; beyond, it is cut at paragraph ends, and so are rows
    above ROW_LIMIT characters.

    tally: counts what is left out or cut, and decides about what cannot be read; without it, that is BadText.
    """
    tally = tally or Tally()
    kind = _kind(path)
    columns = (column,) if column else COLUMNS
    if kind == ".parquet":
        found = _whole(parquet_texts(path, columns, tally), tally)
    elif kind in LINES:
        found = _whole(_jsonl(path, columns, tally), tally)
    else:
        found = _cut(_decoded(path), limit)
    some = False
    try:
        for text in found:
            some = True
            if text.strip():
                yield text
            else:
                tally.drop("empty")
    except BadText as error:  # nothing more can be read of this file
        if not tally.skip_bad:
            raise
        part = "the rest" if some else "all"
        tally.bad(BadText(f"{part} of {path} ({error.problem})", error.remedy, error.reason))


def _kind(path: Path) -> str:
    """The suffix that says how to read the file, without the packing; "" when we cannot."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    elif suffixes[-1:] == [".parquet"]:
        return ".parquet"
    return suffixes[-1] if suffixes and suffixes[-1] in TEXT | LINES else ""


def _open(path: Path) -> BinaryIO:
    try:
        if path.suffix.lower() not in PACKED:
            return path.open("rb")
        import pyarrow as pa

        packing = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}[path.suffix.lower()]
        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression=packing)))
    except OSError as error:
        raise unreadable(path, error, "Check that the file is there and that you may read it") from None


def _read(file: BinaryIO, path: Path) -> bytes:
    try:
        return file.read(BLOCK)
    except OSError as error:
        raise unreadable(path, error, again(path)) from None


def _not_utf8(path: Path, offset: int, reason: str) -> BadText:
    remedy = f"Convert it, for example: iconv -f latin1 -t utf-8 {path.name}"
    return BadText(f"{path} is not UTF-8 text at byte {offset}", remedy, reason)


def _decoded(path: Path) -> Iterator[str]:
    """The text in blocks, with every line end as one newline."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0  # bytes of the blocks before this one
    with _open(path) as file:
        while True:
            block = _read(file, path)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                # the decoder may have kept back bytes of the block before
                start = offset - (len(error.object) - len(block)) + error.start
                raise _not_utf8(path, start, "files that are not UTF-8 to their end") from None
            if offset == 0:
                text = text.removeprefix("\ufeff")
            offset += len(block)
            yield newlines.decode(text, final=not block)
            if not block:
                return


def _whole(rows: Iterator[str], tally: Tally) -> Iterator[str]:
    """Rows as documents; those above ROW_LIMIT cut, since packing and the tokenizer hold a document in memory."""
    for text in rows:
        if len(text) <= ROW_LIMIT:
            yield text
        else:
            tally.cut += 1
            yield from _cut([text], ROW_LIMIT)


def _cut(blocks: Iterable[str], limit: int) -> Iterator[str]:
    """Stretches of at most `limit` characters, which end where a paragraph, else a line, else a word does."""
    rest, some = "", False
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > limit:
            ends = (rest.rfind(mark, start + 1, start + limit) + len(mark) for mark in ("\n\n", "\n", " "))
            end = next((end for end in ends if end > start + limit // 4), start + limit)
            yield rest[start:end]
            start, some = end, True
        rest = rest[start:]
    if rest or not some:
        yield rest


def _jsonl(path: Path, columns: tuple[str, ...], tally: Tally) -> Iterator[str]:
    with _open(path) as file:
        for number, (offset, line) in enumerate(_lines(file, path), 1):
            place = f"line {number} of {path}"
            try:
                text = _line_text(line, number, offset, path, place, columns)
            except BadText as error:
                tally.bad(error)
                continue
            if text is not None:
                yield _utf8(text, tally)


def _utf8(text: str, tally: Tally) -> str:
    """`text` without halves of surrogate pairs, which JSON can spell and no UTF-8 file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        tally.halved += 1
        return text.encode("utf-8", errors="replace").decode("utf-8")
    return text


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes | None]]:
    """(offset in the file, bytes) of every line; None for bytes of a line above LINE_LIMIT."""
    parts: list[bytes] = []  # of the line that is being read
    size, offset = 0, 0
    while block := _read(file, path):
        *ends, rest = block.split(b"\n")
        for end in ends:
            size += len(end) + 1
            line = b"".join([*parts, end]) if size <= LINE_LIMIT else None
            parts = []  # before the line is used, since it may be large
            yield offset, line
            offset, size = offset + size, 0
        size += len(rest)
        if size <= LINE_LIMIT:
            parts.append(rest)
        else:
            parts.clear()
    yield offset, b"".join(parts) if size <= LINE_LIMIT else None


def _line_text(
    line: bytes | None, number: int, offset: int, path: Path, place: str, columns: tuple[str, ...]
) -> str | None:
    """The text of one line of jsonl; None for a blank line."""
    if line is None:
        raise BadText(f"{place} is longer than {LINE_LIMIT:,} bytes", "Cut it into several", "lines too long")
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, offset + error.start, "not UTF-8") from None
    if not text.strip():
        return None
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadText(f"{place} is not JSON ({error})", "Write one JSON object a line", "not JSON") from None
    return row_text(row, place, columns)
