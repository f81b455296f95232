"""Write unicode_ranges.inc: what tiktoken's regex engine calls a letter, a number and white space.

python csrc/unicode_ranges.py > csrc/unicode_ranges.inc
"""

from __future__ import annotations

import tiktoken

from nanochat.tokenizer.unicode_classes import CLASSES, members, ranges

# the first code points that came with a version of Unicode, to name the version of the tables
FIRST_OF_VERSION = {"15.0": 0x31350, "15.1": 0x2EBF0, "16.0": 0x105C0, "17.0": 0x323B0}


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
