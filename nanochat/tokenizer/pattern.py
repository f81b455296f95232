"""The one split pattern: it cuts text into chunks in training and in encoding; no token crosses a cut."""

from __future__ import annotations

import math
import re

from nanochat.console import UserError

# Two digits: with a vocabulary of about 32K, three waste tokens on numbers and one makes them long.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


LONGEST = 1000  # characters of a pattern; SPLIT_PATTERN has about a hundred
COUNT = re.compile(r"\{(\d*),?(\d*)\}")
MOST_COPIES = 1000  # of a piece that is to occur {n} times: a compiled expression holds them all
PROBE = "Ab c's 12,345\n\n  \t¿é?\u4e16\u0301 !\r\n_ "


def cuts_all(pattern: str) -> bool:
    """Whether a stranger's pattern is a regular expression that puts every character of a probe into a chunk, and makes
    no empty chunk, which tiktoken dies of."""
    if pattern in map(split_pattern, (1, 2, 3)):
        return True
    counts = (int(number) for pair in COUNT.findall(pattern) for number in pair if number)
    if len(pattern) > LONGEST or math.prod(counts) > MOST_COPIES:
        return False
    import regex
    import tiktoken

    try:
        ranks = {bytes([byte]): byte for byte in range(256)}
        tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        chunks = [match.group() for match in regex.finditer(pattern, PROBE, timeout=1)]
    except (ValueError, regex.error, TimeoutError, RecursionError, OverflowError, MemoryError):
        return False
    return all(chunks) and "".join(chunks) == PROBE


def split_pattern(digits: int) -> str:
    """SPLIT_PATTERN with chunks of at most `digits` (1, 2 or 3) digits."""
    if digits not in (1, 2, 3):
        raise UserError(f"cannot split numbers into chunks of {digits} digits", "choose 1, 2 or 3")
    return SPLIT_PATTERN.replace(r"\p{N}{1,2}", r"\p{N}" if digits == 1 else rf"\p{{N}}{{1,{digits}}}")
