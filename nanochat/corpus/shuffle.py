"""Shuffle more text than fits in memory, reproducibly, and remove duplicates if asked."""

from __future__ import annotations

import hashlib
import random
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

PILE = 64 << 20  # bytes shuffled in memory at once
OVERHEAD = 100  # bytes that Python needs per document besides its text
MAX_PILES = 256  # files open at once

OnDuplicate = Callable[[], None] | None


def disk_needed(text_bytes: int) -> int:
    """Disk space in bytes for shuffling `text_bytes` of text and writing the result.

    A pile is deleted when the next one is begun, so at most one pile of text is on disk twice.
    """
    return text_bytes + max(min(text_bytes, PILE), text_bytes // MAX_PILES)


def shuffled(
    documents: Iterable[str], seed: int, expected_bytes: int, scratch: Path, on_duplicate: OnDuplicate = None
) -> Iterator[str]:
    """All documents in an order set by the seed; memory use does not grow with their number.

    expected_bytes: about how much text will come; a wrong guess costs time, not memory.
    scratch: a folder that can hold all the text for a while.
    on_duplicate: called for each repeated document, which is then left out; None keeps them all.
    """
    texts = (text.encode("utf-8") for text in documents)
    for data in _shuffled(texts, random.Random(seed), expected_bytes, scratch, on_duplicate):
        yield data.decode("utf-8")


def _shuffled(
    documents: Iterator[bytes], rng: random.Random, expected_bytes: int, scratch: Path, on_duplicate: OnDuplicate
) -> Iterator[bytes]:
    """Shuffle in memory what fits there. Deal more to random piles in files and shuffle these one after the other: the
    result is the same as shuffling all at once. A pile that is too large itself is dealt again.

    To remove duplicates, choose a document's pile by its text, so that equal ones meet.
    """
    held, rest = _fill(documents, on_duplicate)
    if rest is None:
        rng.shuffle(held)
        yield from held
        return
    count = min(max(2, -(-expected_bytes // PILE)), MAX_PILES)
    salt = rng.randbytes(16)
    with tempfile.TemporaryDirectory(prefix=".piles-", dir=scratch) as folder:
        names = [Path(folder) / str(place) for place in range(count)]
        with ExitStack() as stack:
            files = [stack.enter_context(name.open("wb")) for name in names]
            for data in chain(held, rest):
                place = rng.randrange(count) if on_duplicate is None else _number(data, salt) % count
                files[place].write(struct.pack("<Q", len(data)) + data)
        held.clear()
        for name in names:
            yield from _shuffled(_read_pile(name), rng, name.stat().st_size, scratch, on_duplicate)
            name.unlink()


def _fill(documents: Iterator[bytes], on_duplicate: OnDuplicate) -> tuple[list[bytes], Iterator[bytes] | None]:
    """The first documents, as many as fit in memory, and the others (None: there are none)."""
    held: list[bytes] = []
    seen: set[bytes] = set()
    size = 0
    for data in documents:
        if on_duplicate is not None:
            if data in seen:
                on_duplicate()
                continue
            seen.add(data)
        if held and size + len(data) > PILE:
            return held, chain([data], documents)
        held.append(data)
        size += len(data) + OVERHEAD
    return held, None


def _number(data: bytes, salt: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=salt).digest(), "little")


def _read_pile(name: Path) -> Iterator[bytes]:
    with name.open("rb") as file:
        while head := file.read(8):
            yield file.read(struct.unpack("<Q", head)[0])
