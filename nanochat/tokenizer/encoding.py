"""Text to ids: by the native tokenizer if it was built and supports the split pattern, else by tiktoken.

The ids are equal, except inside 100,000 or more whitespace characters in a row, which tiktoken cannot match at once.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from nanochat.tokenizer.native import bpe, native_digits

if TYPE_CHECKING:
    import numpy as np

# tiktoken's regex engine dies of a stack overflow on some hundred thousand spaces in a row
LONG_TEXT = 100_000
LONG_SPACE = re.compile(rf"(\s{{{LONG_TEXT}}})")


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def encode_arrays(self, documents: list[str], threads: int) -> list[np.ndarray]:
        """Ids of each document, uint32."""


def make_encoder(ranks: dict[bytes, int], pattern: str) -> Encoder:
    digits = native_digits(pattern)
    if bpe is None or digits is None:
        return TiktokenEncoder(ranks, pattern)
    return NativeEncoder(ranks, digits)


class NativeEncoder:
    def __init__(self, ranks: dict[bytes, int], digits: int) -> None:
        self._encoder = bpe.Encoder(sorted(ranks, key=ranks.__getitem__), digits)

    def encode(self, text: str) -> list[int]:
        try:
            return self._encoder.encode(text)
        except bpe.SurrogateError:
            return self._encoder.encode(_well_formed(text))

    def encode_arrays(self, documents: list[str], threads: int) -> list[np.ndarray]:
        try:
            return self._encoder.encode_arrays(documents, threads)
        except bpe.SurrogateError:
            return self._encoder.encode_arrays([_well_formed(text) for text in documents], threads)


class TiktokenEncoder:
    def __init__(self, ranks: dict[bytes, int], pattern: str) -> None:
        import tiktoken

        self._encoding = tiktoken.Encoding("nanochat", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> list[int]:
        if len(text) < LONG_TEXT:
            return self._encoding.encode_ordinary(text)
        # cut only inside runs of white space that are too long for one match
        pieces = (piece for piece in LONG_SPACE.split(text) if piece)
        return [token for piece in pieces for token in self._encoding.encode_ordinary(piece)]

    def encode_arrays(self, documents: list[str], threads: int) -> list[np.ndarray]:
        import numpy as np

        with ThreadPoolExecutor(threads) as pool:
            return [np.array(ids, np.uint32) for ids in pool.map(self.encode, documents)]


def _well_formed(text: str) -> str:
    """`text` with U+FFFD for unpaired surrogates, which UTF-8 cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
