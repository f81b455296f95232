"""Text to token ids and back, and the folder a tokenizer lives in."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.console import UserError, require_version
from nanochat.machine import cpu_count
from nanochat.paths import read_folder, replace_folder
from nanochat.reading import MB, parse_json, read_text
from nanochat.tokenizer.encoding import make_encoder
from nanochat.tokenizer.hf_format import tokenizer_json
from nanochat.tokenizer.pattern import SPLIT_PATTERN, cuts_all
from nanochat.tokenizer.special import BOS, SPECIAL_TOKENS

if TYPE_CHECKING:
    import numpy as np

FORMAT_VERSION = 1
META = "meta.json"
REMEDY = "restore the folder from a copy, or run python -m scripts.tok_train again"
FILES = ("ranks.tiktoken", "token_bytes.json", "tokenizer.json")
LONGEST = 128 * MB  # of a file; a million tokens need about that in tokenizer.json
UNICODE_NOTE = (
    "what counts as a letter or a number follows the Unicode 16.0 tables of tiktoken, in training and in encoding; "
    "a reader of tokenizer.json with other tables may split characters of newer Unicode versions elsewhere"
)


class Tokenizer:
    """Byte-pair encoding; the nine special tokens come after the learnt ones."""

    def __init__(self, ranks: dict[bytes, int], pattern: str = SPLIT_PATTERN) -> None:
        _check_ranks(ranks)
        self.ranks = ranks
        self.pattern = pattern
        self._special = {name: len(ranks) + place for place, name in enumerate(SPECIAL_TOKENS)}
        self._encoder = make_encoder(ranks, pattern)
        self._decoder = {rank: token for token, rank in ranks.items()}
        self._decoder |= {rank: name.encode() for name, rank in self._special.items()}

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self.ranks) + len(SPECIAL_TOKENS)

    @property
    def bos(self) -> int:
        return self._special[BOS]

    def special(self, name: str) -> int:
        """Id of a special token, such as `<|assistant_end|>`."""
        return self._special[name]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; whatever the text says, never a special id."""
        return self._encoder.encode(text)

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """Ids of each text, on `threads` threads (default: one a core)."""
        return [ids.tolist() for ids in self.encode_arrays(texts, threads)]

    def encode_arrays(self, texts: Sequence[str], threads: int | None = None) -> list[np.ndarray]:
        """As encode_batch, in arrays of uint32: the fast way."""
        if isinstance(texts, str):
            raise UserError("encode_batch needs many texts, not one string", "call encode, or pass a list")
        return self._encoder.encode_arrays(list(texts), threads or cpu_count())

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, special tokens by name; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_batch(self, batch: Iterable[Iterable[int]]) -> list[str]:
        return [self.decode(ids) for ids in batch]

    def bytes_of(self, id: int) -> bytes:
        """Bytes of one id; KeyError for an unknown one."""
        return self._decoder[id]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of `ids`; KeyError for an unknown id."""
        return b"".join(map(self._decoder.__getitem__, ids))

    @cached_property
    def token_bytes(self) -> list[int]:
        """Length of every token in bytes, indexed by id; 0 for special tokens."""
        lengths = [0] * self.vocab_size
        for token, rank in self.ranks.items():
            lengths[rank] = len(token)
        return lengths

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token, and so no fewer than its characters."""
        return max(self.token_bytes)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all that decides ids: pattern, tokens, special tokens."""
        return _digest("\n".join([self.pattern, *SPECIAL_TOKENS, self._ranks_text]))

    @cached_property
    def _ranks_text(self) -> str:
        ordered = sorted(self.ranks, key=self.ranks.__getitem__)
        return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ordered))

    @cached_property
    def _tokenizer_json(self) -> str:
        # kept, since every checkpoint saves the same tokenizer again
        return tokenizer_json(self.ranks, self.pattern, SPECIAL_TOKENS)

    def save(self, folder: Path | str) -> None:
        """Write the whole folder, replacing an earlier tokenizer; UserError if it holds other things."""
        folder = Path(folder)
        if folder.is_dir() and any(folder.iterdir()) and not any((folder / name).exists() for name in (*FILES, META)):
            raise UserError(f"the folder {folder} holds other files, which would be lost", "choose a new or empty one")
        contents = {
            "ranks.tiktoken": self._ranks_text,
            "token_bytes.json": json.dumps(self.token_bytes),
            "tokenizer.json": self._tokenizer_json,
        }
        meta = {
            "version": FORMAT_VERSION,
            "vocab_size": self.vocab_size,
            "pattern": self.pattern,
            "special_tokens": list(SPECIAL_TOKENS),
            "hash": self.hash,
            "files": {name: _digest(contents[name]) for name in FILES},
            "unicode": UNICODE_NOTE,
        }
        with replace_folder(folder) as beside:
            for name, text in contents.items():
                (beside / name).write_text(text, encoding="utf-8", newline="\n")
            (beside / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read a folder written by `save`; UserError names a file that is missing or damaged."""
        return read_folder(Path(folder), cls._opened)

    @classmethod
    def _opened(cls, folder: Path) -> Tokenizer:
        if not folder.is_dir():
            raise UserError(
                f"there is no tokenizer at {folder}", "train one: python -m scripts.tok_train --dataset=NAME"
            )
        meta = _read_meta(folder)
        contents = {name: _read(folder / name) for name in FILES}
        for name, text in contents.items():
            if _digest(text) != meta["files"].get(name):
                raise _damaged(folder / name)
        if not cuts_all(meta["pattern"]):
            raise UserError(f"the split pattern in {folder / META} cannot cut every text", REMEDY)
        try:
            tokenizer = cls(parse_ranks(contents["ranks.tiktoken"], folder / "ranks.tiktoken"), meta["pattern"])
        except (UserError, ValueError):
            raise _damaged(folder / "ranks.tiktoken") from None
        if (tokenizer.hash, tokenizer.vocab_size) != (meta["hash"], meta["vocab_size"]):
            raise _damaged(folder / META)
        return tokenizer


def read_vocab_size(folder: Path) -> int:
    """The vocabulary of the tokenizer in a folder, special tokens included, without loading it."""
    size: int = _read_meta(folder)["vocab_size"]
    return size


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged", REMEDY)


def _read(path: Path) -> str:
    try:
        return read_text(path, LONGEST)
    except FileNotFoundError:
        raise UserError(f"the tokenizer lacks {path}", REMEDY) from None
    except (OSError, ValueError):
        raise _damaged(path) from None


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    try:
        meta = parse_json(_read(path))
    except ValueError:
        raise _damaged(path) from None
    if isinstance(meta, dict) and "version" in meta:
        require_version(meta["version"], FORMAT_VERSION, f"{path}")
    kinds = {"version": int, "vocab_size": int, "pattern": str, "hash": str, "files": dict}
    if not isinstance(meta, dict) or any(type(meta.get(key)) is not kind for key, kind in kinds.items()):
        raise _damaged(path)
    return meta


def parse_ranks(text: str, path: Path) -> dict[bytes, int]:
    """tiktoken's ranks file: a token in base64 and its id on each line. `path` is named when the text is damaged."""
    try:
        pairs = (line.split() for line in text.splitlines())
        return {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error):
        raise _damaged(path) from None


def _check_ranks(ranks: dict[bytes, int]) -> None:
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise UserError("the ids of a vocabulary must be 0, 1, 2, ... without gaps")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise UserError("a vocabulary must hold all 256 bytes")
