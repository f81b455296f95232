"""Documents from users' files: txt, md, jsonl (also compressed) and parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from nanochat.console import UserError
from nanochat.corpus.decoding import PACKED, PARQUET_MAGIC, head_of, text_blocks, what_is
from nanochat.corpus.jsonrows import json_rows
from nanochat.corpus.messages import marked_bad
from nanochat.corpus.rows import parquet_texts, row_text
from nanochat.corpus.tally import BadText, Tally

TEXT = {".txt", ".text", ".md"}
LINES = {".jsonl", ".ndjson"}
ONE = {".json"}  # rows too, but only if named directly: a folder may hold other .json files
KINDS = "txt, md, jsonl (each also with .gz, .bz2, .xz or .zst) and parquet"
COLUMNS = ("text", "messages")  # the default columns for the text of a row
LIMIT = 100_000  # characters: a longer text file becomes several documents
ROW_LIMIT = 1_000_000  # the same for a row of jsonl or parquet


def text_files(path: Path) -> list[Path]:
    """`path` itself, or every file below it that we can read, sorted; UserError when there is none."""
    if not path.exists():
        raise UserError(f"there is no file or folder {path}")
    if path.is_file():
        if not _kind(path):
            is_what = what_is(head_of(path)).partition(":")[0]
            raise UserError(f"cannot read text from {path}{is_what and f': it is {is_what}'}", f"Use {KINDS}")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path} is neither a file nor a folder", "Save the pipe's output as a file first")
    inside = (file for file in sorted(path.rglob("*")) if file.is_file())
    files = [
        file
        for file in inside
        if _kind(file) not in ONE | {""} and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        raise UserError(f"the folder {path} has no text files", f"Put in {KINDS}")
    return files


def text_size(path: Path) -> int:
    """About how many bytes of text a file holds (compressed files: four times their size)."""
    size = path.stat().st_size
    return size * 4 if path.suffix.lower() in {*PACKED, ".parquet"} else size


def documents(path: Path, limit: int = LIMIT, column: str | None = None, tally: Tally | None = None) -> Iterator[str]:
    """Yield the documents of one file, except those without a visible character.

    A row of parquet or a line of jsonl is a document: its `column`, or by default its text or the conversation in its
    messages. A text file of up to `limit` characters is one document; a longer one is cut at paragraph ends, and so
    are rows above ROW_LIMIT characters.

    tally: counts what is left out or cut, and skips or raises what cannot be read; without it, BadText is raised.
    """
    tally = tally or Tally()
    kind = _kind(path)
    columns = (column,) if column else COLUMNS
    if kind == ".parquet" or head_of(path).startswith(PARQUET_MAGIC):
        found = _whole(parquet_texts(path, columns, tally), tally)
    elif kind in LINES | ONE:
        found = _whole(_texts(path, columns, tally), tally)
    else:
        found = _cut(text_blocks(path), limit)
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
    """The suffix that says how to read the file, ignoring compression; "" if we cannot read it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    elif suffixes[-1:] == [".parquet"]:
        return ".parquet"
    if suffixes[-2:-1] and suffixes[-2] in LINES and suffixes[-1] in TEXT:
        suffixes.pop()  # chats.jsonl.txt, as Notepad saves it
    return suffixes[-1] if suffixes and suffixes[-1] in TEXT | LINES | ONE else ""


def _whole(rows: Iterator[str], tally: Tally) -> Iterator[str]:
    """Yield rows as documents. Cut those above ROW_LIMIT: packing and the tokenizer hold a document in memory."""
    for text in rows:
        if len(text) <= ROW_LIMIT:
            yield text
        else:
            tally.cut += 1
            yield from _cut([text], ROW_LIMIT)


def _cut(blocks: Iterable[str], limit: int) -> Iterator[str]:
    """Cut text into pieces of at most `limit` characters, at the end of a paragraph, else a line, else a word."""
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


def _texts(path: Path, columns: tuple[str, ...], tally: Tally) -> Iterator[str]:
    """The text of every row of a jsonl or json file."""
    for place, row in json_rows(path, tally):
        if "messages" in columns and marked_bad(row):
            tally.drop("marked bad")
            continue
        try:
            text = row_text(row, place, columns)
        except BadText as error:
            tally.bad(error)
            continue
        yield _utf8(text, tally)


def _utf8(text: str, tally: Tally) -> str:
    """`text` with a ? for each unpaired surrogate, which JSON allows and UTF-8 does not."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        tally.halved += 1
        return text.encode("utf-8", errors="replace").decode("utf-8")
    return text
