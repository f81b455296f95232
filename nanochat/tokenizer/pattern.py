"""The one split pattern: it cuts text into chunks in training and in encoding; no token crosses a cut."""

from __future__ import annotations

from nanochat.console import UserError

# Two digits: with a vocabulary of about 32K, three waste tokens on numbers and one makes them long.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


LONGEST = 1000  # characters of a pattern; SPLIT_PATTERN has about a hundred
PROBE = "Ab c's 12,345\n\n  \t¿é?\u4e16\u0301 !\r\n_ "


def cuts_all(pattern: str) -> bool:
    """Whether a stranger's pattern is a regular expression that puts every character of a probe into a chunk, and makes
    no empty chunk, which tiktoken dies of."""
    if pattern in map(split_pattern, (1, 2, 3)):
        return True
    if len(pattern) > LONGEST:
        return False
    import regex

    try:
        chunks = [match.group() for match in regex.finditer(pattern, PROBE, timeout=1)]
    except (regex.error, TimeoutError, RecursionError, OverflowError, MemoryError):
        return False
    return all(chunks) and "".join(chunks) == PROBE


def split_pattern(digits: int) -> str:
    """SPLIT_PATTERN with chunks of at most `digits` (1, 2 or 3) digits."""
    if digits not in (1, 2, 3):
        raise UserError(f"cannot split numbers into chunks of {digits} digits", "choose 1, 2 or 3")
    return SPLIT_PATTERN.replace(r"\p{N}{1,2}", r"\p{N}" if digits == 1 else rf"\p{{N}}{{1,{digits}}}")
