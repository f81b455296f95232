"""Documents of files as people have them: txt, md, jsonl (also .gz .bz2 .zst) and parquet."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from nanochat.console import UserError
from nanochat.tokenizer.conversation import Conversation

TEXT = {".txt", ".text", ".md"}
LINES = {".jsonl", ".ndjson"}
PACKED = {".gz", ".bz2", ".zst"}
KINDS = "txt, md, jsonl (each also with .gz, .bz2 or .zst) and parquet"
LIMIT = 100_000  # characters: a longer text file becomes several documents
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
    return size * 4 if path.suffix in PACKED or path.suffix == ".parquet" else size


def documents(path: Path, limit: int = LIMIT) -> Iterator[str]:
    """Documents of one file; those without a visible character are left out.

    A row of parquet (column `text`, or a conversation in `messages`) or a line of jsonl (likewise) is a
    document. A text file is one up to `limit` characters; beyond, it is cut at paragraph ends.
    """
    kind = _kind(path)
    if kind == ".parquet":
        found = _parquet(path)
    elif kind in LINES:
        found = _jsonl(path)
    else:
        found = _cut(_decoded(path), limit)
    return (text for text in found if text.strip())


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
        raise UserError(f"cannot open {path}: {error.strerror or error}") from None


def _read(file: BinaryIO, path: Path) -> bytes:
    try:
        return file.read(BLOCK)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}", "The file may be damaged") from None


def _not_utf8(path: Path, offset: int) -> UserError:
    remedy = f"Convert it, for example: iconv -f latin1 -t utf-8 {path.name}"
    return UserError(f"{path} is not UTF-8 text at byte {offset}", remedy)


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
                raise _not_utf8(path, offset - (len(error.object) - len(block)) + error.start) from None
            if offset == 0:
                text = text.removeprefix("\ufeff")
            offset += len(block)
            yield newlines.decode(text, final=not block)
            if not block:
                return


def _cut(blocks: Iterator[str], limit: int) -> Iterator[str]:
    """Stretches of at most `limit` characters, which end where a paragraph, else a line, else a word does."""
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > limit:
            ends = (rest.rfind(mark, start + 1, start + limit) + len(mark) for mark in ("\n\n", "\n", " "))
            end = next((end for end in ends if end > start + limit // 4), start + limit)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    yield rest


def _jsonl(path: Path) -> Iterator[str]:
    offset = 0
    with _open(path) as file:
        for number, line in enumerate(_lines(file, path), 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, offset + error.start) from None
            offset += len(line)
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise UserError(f"line {number} of {path} is not JSON ({error})") from None
            yield _row_text(row, f"line {number} of {path}")


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    rest = b""
    while block := _read(file, path):
        *whole, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in whole)
    yield rest


def _row_text(row: Any, place: str) -> str:
    if not isinstance(row, dict) or not ("text" in row or "messages" in row):
        raise UserError(f"{place} has neither text nor messages", 'Write {"text": "..."} or {"messages": [...]}')
    text = row["text"] if "text" in row else _conversation_text(row, place)
    if not isinstance(text, str):
        raise UserError(f"the text in {place} is not a string")
    # JSON can spell half of a surrogate pair, which no UTF-8 file can hold
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _conversation_text(row: dict[str, Any], place: str) -> str:
    """A conversation as plain text to pretrain on."""
    try:
        messages = Conversation.from_dict(row).messages
    except UserError as error:
        raise UserError(f"{place}: {error.problem}", error.remedy) from None
    return "\n\n".join(f"{message.role.capitalize()}: {message.text}" for message in messages)


def _parquet(path: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in ("text", "messages") if name in file.schema_arrow.names][:1]
            if not columns:
                raise UserError(f"{path} has no column text", f"Its columns are {', '.join(file.schema_arrow.names)}")
            number = 0
            for batch in file.iter_batches(256, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield _row_text(row, f"row {number} of {path}")
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0][:150]
        raise UserError(f"cannot read {path}: {reason}", "The file may be damaged; get it again") from None
