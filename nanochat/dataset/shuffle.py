"""A fixed random order for more text than fits in memory."""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

PILE = 512 << 20  # bytes of text shuffled in memory at once


def shuffled(documents: Iterable[str], seed: int, expected_bytes: int, scratch: Path) -> Iterator[str]:
    """All documents in an order that the seed decides.

    When they are too many, each goes to one of several random piles in files under `scratch`, and the
    piles are shuffled one after the other: the same as shuffling all at once.
    """
    rng = random.Random(seed)
    piles = -(-expected_bytes // PILE)
    if piles <= 1:
        everything = list(documents)
        rng.shuffle(everything)
        yield from everything
        return
    with tempfile.TemporaryDirectory(prefix=".piles-", dir=scratch) as folder:
        names = [Path(folder) / str(place) for place in range(piles)]
        with ExitStack() as stack:
            files = [stack.enter_context(name.open("wb")) for name in names]
            for text in documents:
                data = text.encode("utf-8")
                files[rng.randrange(piles)].write(struct.pack("<Q", len(data)) + data)
        for name in names:
            pile = list(_read_pile(name))
            name.unlink()
            rng.shuffle(pile)
            yield from pile


def _read_pile(name: Path) -> Iterator[str]:
    with name.open("rb") as file:
        while head := file.read(8):
            yield file.read(struct.unpack("<Q", head)[0]).decode("utf-8")
