"""The native tokenizer, where it was built, and which split patterns it knows."""

from __future__ import annotations

from nanochat.tokenizer.pattern import split_pattern

try:
    from nanochat.tokenizer import _bpe
except ImportError:
    _bpe = None  # type: ignore[assignment]  # installed without a C++20 compiler: tokenizers and tiktoken do its work

bpe = _bpe

NOT_BUILT = "the native tokenizer was not built when nanochat was installed (it needs a C++20 compiler)"


def native_digits(pattern: str) -> int | None:
    """The digits of a chunk when `pattern` is compiled into the native splitter, else None."""
    return next((digits for digits in (1, 2, 3) if split_pattern(digits) == pattern), None)
