"""The native tokenizer, where it was built, and which split patterns it knows."""

from __future__ import annotations

from nanochat.tokenizer.pattern import split_pattern

# what a person is told when tokenizers and tiktoken have to do its work
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
    """The digits of a chunk when `pattern` is compiled into the native splitter, else None."""
    return next((digits for digits in (1, 2, 3) if split_pattern(digits) == pattern), None)
