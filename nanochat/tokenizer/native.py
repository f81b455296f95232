"""The native tokenizer, if it was built, and the split patterns that it supports."""

from __future__ import annotations

from nanochat.tokenizer.pattern import split_pattern

# the message shown when tokenizers and tiktoken are used instead
MISSING = ""
try:
    import nanochat.tokenizer._bpe as _bpe
except ModuleNotFoundError:
    _bpe = None  # type: ignore[assignment]  # mypy sees the stub, so a module
    MISSING = (
        "the native tokenizer was not built, since there was no C++20 compiler when nanochat was installed "
        "(install one and nanochat again)"
    )
except ImportError as error:
    _bpe = None  # type: ignore[assignment]  # mypy sees the stub, so a module
    MISSING = f"the native tokenizer cannot be loaded ({error})"

bpe = _bpe


def native_digits(pattern: str) -> int | None:
    """The digits per chunk if the native splitter supports `pattern`, else None."""
    return next((digits for digits in (1, 2, 3) if split_pattern(digits) == pattern), None)
