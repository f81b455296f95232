"""Write unicode_ranges.inc: what tiktoken's regex engine calls a letter, a number and white space.

Training must cut text exactly as encoding does, so the tables come from the encoder itself: with the pattern
`\\p{L}` and a vocabulary of the 256 bytes, tiktoken's ids of "all characters" are the bytes of all letters.

    python csrc/unicode_ranges.py > csrc/unicode_ranges.inc
"""

from __future__ import annotations

import itertools

import tiktoken

CODE_POINTS = [*range(0xD800), *range(0xE000, 0x110000)]
CLASSES = {"letter": r"\p{L}", "number": r"\p{N}", "space": r"\s"}
# the first code points that came with a version of Unicode, to name the version of the tables
FIRST_OF_VERSION = {"15.0": 0x31350, "15.1": 0x2EBF0, "16.0": 0x105C0, "17.0": 0x323B0}


def members(pattern: str) -> list[int]:
    """The code points that match `pattern`, in order."""
    bytes_only = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("classes", pat_str=pattern, mergeable_ranks=bytes_only, special_tokens={})
    found = encoding.encode_ordinary("".join(map(chr, CODE_POINTS)))
    return [ord(char) for char in bytes(found).decode()]


def ranges(points: list[int]) -> list[tuple[int, int]]:
    """Runs of neighbours as (first, last)."""
    runs = itertools.groupby(enumerate(points), key=lambda place: place[1] - place[0])
    return [(run[0][1], run[-1][1]) for run in (list(group) for _, group in runs)]


def main() -> None:
    letters = set(members(CLASSES["letter"]))
    version = max((name for name, point in FIRST_OF_VERSION.items() if point in letters), key=float, default="14.0")
    print(f"// Made by unicode_ranges.py from tiktoken {tiktoken.__version__}. Do not edit.")
    print(f'constexpr char kUnicodeVersion[] = "{version}";')
    print("constexpr ClassRange kClassRanges[] = {")
    for kind, pattern in CLASSES.items():
        cells = [f"{{0x{first:X}, 0x{last:X}, k{kind.title()}}}," for first, last in ranges(members(pattern))]
        for row in range(0, len(cells), 4):
            print("    " + " ".join(cells[row : row + 4]))
    print("};")


if __name__ == "__main__":
    main()
