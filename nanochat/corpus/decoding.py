"""Read users' files as text: compressed or not, in any Unicode encoding, with or without a byte order mark."""

from __future__ import annotations

import codecs
import contextlib
import io
import lzma
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from nanochat.corpus.guessing import guess
from nanochat.corpus.tally import NO_TEXT, BadText, again, unreadable

PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
PACKED_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
PARQUET_MAGIC = b"PAR1"
# A file that begins like this is not text, whatever its name says.
BINARY = {
    PARQUET_MAGIC: "parquet: end its name in .parquet",
    b"ARROW1": "an Arrow file: write it as parquet",
    b"%PDF": "a PDF: save its text, for example with pdftotext",
    b"PK\3\4": "a ZIP archive, as Word, Excel and EPUB files are: unpack it, or save it as plain text",
    b"\xd0\xcf\x11\xe0": "an old Office file: save it as plain text",
    b"{\\rtf": "rich text: save it as plain text",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"SQLite format 3": "a database: export its rows as jsonl",
    b"\x89PNG": "a picture: leave it out",
    b"\xff\xd8\xff": "a picture: leave it out",
    b"GIF8": "a picture: leave it out",
    b"ID3\3": "music: leave it out",
    b"ID3\4": "music: leave it out",
    b"OggS\0": "music: leave it out",
    b"\x93NUMPY": "an array of numpy: leave it out",
    b"\x04\x22\x4d\x18": "packed with lz4: unpack it",
    b"\x80\x04\x95": "a pickle, which is a program: leave it out",
    b"\x7fELF": "a program: leave it out",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run git lfs pull",
}
BOMS = (  # UTF-32 first: its mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MOST_ZEROS = 0.01  # share of the first bytes
HEAD = 4096  # bytes read to detect the encoding
BLOCK = 1 << 20  # bytes read at once
AROUND = 1 << 15  # bytes on each side of a bad one, used to guess the encoding


def read_text(path: Path) -> str:
    """All of a file's text, with every line end as one newline; UserError says what else it is."""
    return "".join(text_blocks(path))


def text_blocks(path: Path) -> Iterator[str]:
    """The text in blocks, with every line end as one newline."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    offset = 0  # bytes of the blocks before this one
    for block in utf8_blocks(path):
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            # the decoder may have kept back bytes of the block before
            start = offset - (len(error.object) - len(block)) + error.start
            around = error.object[max(0, error.start - AROUND) : error.start + AROUND]
            raise not_utf8(path, start, "files that are not UTF-8 to their end", around) from None
        if offset == 0:
            text = text.removeprefix("\ufeff")
        offset += len(block)
        yield newlines.decode(text, final=not block)


def utf8_blocks(path: Path) -> Iterator[bytes]:
    """Yield the file's bytes, decompressed and in UTF-8 (not checked); the last block is empty.

    UTF-16 and UTF-32 become UTF-8; a UTF-8 byte order mark stays. BadText if the file is not text.
    """
    with _open(path) as file:
        head = _peek(file, path)
        encoding = _wide_encoding(head)
        if is_what := what_is(head, bool(encoding)):
            called, _, remedy = is_what.partition(": ")
            raise BadText(f"{path} is {called}", remedy[:1].upper() + remedy[1:], NO_TEXT)
        decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
        while True:
            block = _read(file, path)
            if decoder is None:
                yield block
            else:
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    problem = f"{path} is {encoding.upper()} text that is damaged or cut short ({error.reason})"
                    raise BadText(problem, again(path), "files that could not be read to their end") from None
                if text:
                    yield text.encode("utf-8")
                if not block:
                    yield b""
            if not block:
                return


def what_is(head: bytes, wide: bool = False) -> str:
    """What a file with these first bytes is, and what to do; "" for text. wide: it may be UTF-16 or UTF-32."""
    for magic, what in BINARY.items():
        if head.startswith(magic):
            return what
    if any(map(head.startswith, PACKED_MAGIC)):
        return "packed twice: unpack it once"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if head[:4] == b"RIFF" and head[8:12] in (b"WAVE", b"WEBP", b"AVI "):
        return "sound, a picture or a film: leave it out"
    if head[4:8] == b"ftyp" and 0 in head[:4]:
        return "a film: leave it out"
    if not wide and head.count(0) > MOST_ZEROS * len(head):
        return "full of zero bytes, unlike text: leave it out"
    if b"\x1b$" in head:
        return "ISO-2022, a way to write Japanese, Korean or Chinese: convert it with iconv -f ISO-2022-JP -t UTF-8"
    return ""


def head_of(path: Path) -> bytes:
    """The file's first bytes, unchanged; none if it cannot be read: reading it later gives the error."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""


def not_utf8(path: Path, offset: int, reason: str, around: bytes = b"") -> BadText:
    """The error for a byte that is not UTF-8. around: bytes near it, used for the advice."""
    return BadText(f"{path} is not UTF-8 text at byte {offset}", advice(path, around) if around else "", reason)


def advice(path: Path, around: bytes) -> str:
    """How to get correct text from a file that has these bytes."""
    text = around.decode("utf-8", "replace")
    bad = text.count("\ufffd") - around.count(b"\xef\xbf\xbd")
    if sum(char > "\x7f" for char in text) - bad > bad:
        return f"It is UTF-8 with damage; without the bad bytes: {_iconv(path, '-c -f UTF-8')}"
    if not (name := guess(around)):
        return "If it is text, open it and save it as UTF-8"
    return f"It seems to be {name}: {_iconv(path, f'-f {name}')} (and look at it)"


def _iconv(path: Path, options: str) -> str:
    """Commands that convert the file to UTF-8 in place and keep the original beside it."""
    name, kept = _quoted(str(path)), _quoted(f"{path}.orig")
    packing = PACKED.get(path.suffix.lower())
    if packing is None:
        return f"mv {name} {kept}; iconv {options} -t UTF-8 {kept} > {name}"
    program = {"gzip": "gzip", "bz2": "bzip2"}.get(packing, packing)
    return f"mv {name} {kept}; {program} -dc < {kept} | iconv {options} -t UTF-8 | {program} > {name}"


def _quoted(name: str) -> str:
    """The name quoted for a shell, even if it looks like an option or is not UTF-8."""
    name = f"./{name}" if name.startswith("-") else name
    if name.isprintable():
        return shlex.quote(name)
    return "$'" + "".join(f"\\x{byte:02x}" for byte in os.fsencode(name)) + "'"


def _open(path: Path) -> BinaryIO:
    """Open the file, decompressed if its first bytes say so; BadText if only its name does."""
    try:
        plain = path.open("rb")
        head = plain.peek(8)
        packing = next((name for magic, name in PACKED_MAGIC.items() if head.startswith(magic)), None)
        named = PACKED.get(path.suffix.lower())
        if packing is None and named is None:
            return plain
        plain.close()
        if packing is None and head:
            remedy = f"Rename it to {path.with_suffix('').name} if it is not packed, or get it again"
            raise BadText(f"cannot read {path} (it is not {named} data)", remedy, "files that could not be read")
        if (packing or named) == "xz":
            return cast(BinaryIO, io.BufferedReader(lzma.open(path)))
        import pyarrow as pa

        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression=packing or named)))
    except OSError as error:
        raise unreadable(path, error, "Check that the file is there and that you may read it") from None


def _read(file: BinaryIO, path: Path) -> bytes:
    try:
        return file.read(BLOCK)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise unreadable(path, error, again(path)) from None


def _peek(file: BinaryIO, path: Path) -> bytes:
    """The first bytes, without consuming them."""
    try:
        return cast(io.BufferedReader, file).peek(HEAD)[:HEAD]
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise unreadable(path, error, again(path)) from None


def _wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32, detected by the mark, else by the zero bytes of Latin letters or spaces; else ""."""
    for mark, name in BOMS:
        if head.startswith(mark):
            return name
    size = len(head) // 4 * 4
    zeros = [head[place:size:4].count(0) / max(1, size // 4) for place in range(4)]
    few, many = 0.1, 0.4  # share of zeros at a byte position
    for name, empty in (
        ("utf-32-le", (2, 3)), ("utf-32-be", (0, 1)), ("utf-16-le", (1, 3)), ("utf-16-be", (0, 2)),
    ):  # fmt: skip
        filled = [place for place in range(4) if place not in empty]
        if all(zeros[place] > many for place in empty) and any(zeros[place] <= few for place in filled):
            return name
    if 0 in head and not _is_plain(head.decode("utf-8", "replace").replace("\0", "")):
        # Other alphabets: only their spaces and line ends have zeros.
        for name in ("utf-16-le", "utf-16-be"):
            with contextlib.suppress(UnicodeDecodeError):
                if _is_plain(head[: len(head) // 2 * 2].decode(name)):
                    return name
    return ""


def _is_plain(text: str) -> bool:
    """Whether the text has only characters that people write."""
    return all(char.isprintable() or char in "\n\r\t\u3000" for char in text) and "\ufffd" not in text
