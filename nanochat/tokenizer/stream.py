"""Text of a growing list of ids, piece by piece."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from nanochat.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Feed ids, get the text that became complete; bytes of an unfinished character wait for the rest.

    All pieces and `finish()` together are `tokenizer.decode` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.waiting = False  # for the rest of a character

    def feed(self, ids: int | Iterable[int]) -> str:
        data = self._tokenizer.bytes_of(ids) if isinstance(ids, int) else self._tokenizer.decode_bytes(ids)
        if not self.waiting:
            try:
                return data.decode()  # most tokens are whole characters, and this is the fast way
            except UnicodeDecodeError:
                pass
        text = self._utf8.decode(data)
        rest = self._utf8.getstate()[0]
        if rest[:1] == b"\xed" and rest[1:2] >= b"\xa0":  # half a surrogate: Python waits for the end of what is none
            text += self._utf8.decode(b"", final=True)
            rest = b""
        self.waiting = bool(rest)
        return text

    def finish(self) -> str:
        """U+FFFD for a character left incomplete, else ""; the decoder is then ready for a new text."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self.waiting = False
        return rest
