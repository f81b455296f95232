"""What tiktoken's regex engine calls a letter, a number and white space.

Training must cut text exactly as encoding does, and so must other programs that encode: their tables come from the
encoder itself. With the pattern `\\p{L}` and a vocabulary of the 256 bytes, tiktoken's ids of "all characters" are the
bytes of all letters.
"""

from __future__ import annotations

import itertools

CODE_POINTS = [*range(0xD800), *range(0xE000, 0x110000)]
CLASSES = {"letter": r"\p{L}", "number": r"\p{N}", "space": r"\s"}


def members(pattern: str) -> list[int]:
    """The code points that match `pattern`, in order."""
    import tiktoken

    bytes_only = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("classes", pat_str=pattern, mergeable_ranks=bytes_only, special_tokens={})
    found = encoding.encode_ordinary("".join(map(chr, CODE_POINTS)))
    return [ord(char) for char in bytes(found).decode()]


def ranges(points: list[int]) -> list[tuple[int, int]]:
    """Runs of neighbours as (first, last)."""
    runs = itertools.groupby(enumerate(points), key=lambda place: place[1] - place[0])
    return [(run[0][1], run[-1][1]) for run in (list(group) for _, group in runs)]
