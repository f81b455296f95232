"""The tokenizer of another program's checkpoint, as ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanochat.checkpoint.pickles import LARGEST, Call, read_pickle
from nanochat.console import UserError
from nanochat.hub import tokenizer_json
from nanochat.hub.source import FAST, OURS, PICKLED
from nanochat.reading import open_regular
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer
from nanochat.tokenizer.pattern import cuts_all

ENCODING = "tiktoken.core.Encoding"  # the one thing that upstream's tokenizer.pkl holds
LONGEST = 256  # bytes of a token; splitting longer ones for tokenizer.json would take hours
LARGEST_WORK = 1 << 25  # squares of all tokens' bytes, which that takes; 65,536 tokens of text need about 4 million
ELSEWHERE = "Take the file from its source again"


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer of ours (a folder), upstream's tokenizer.pkl, which is read as data, or the tokenizer.json of the
    tokenizers library (both: a file, or in a folder)."""
    if path.is_dir():
        if (path / OURS).is_file():
            return Tokenizer.load(path)
        path = path / (FAST if (path / FAST).is_file() and not (path / PICKLED).exists() else PICKLED)
    fast = path.suffix == ".json"
    try:
        with open_regular(path) as file:
            data = file.read((tokenizer_json.LARGEST if fast else LARGEST) + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}", "Name the tokenizer with --tokenizer") from None
    said = None if fast else read_pickle(data, str(path), {ENCODING}, states=True)
    try:
        if fast:
            described = tokenizer_json.describe(data)
            tokenizer = _tokenizer(described.pattern, described.ranks, described.special)
            described.require_merges()
            return tokenizer
        state = said.state if isinstance(said, Call) and said.name == ENCODING and not said.args else None
        if not isinstance(state, dict):
            raise ValueError("it is something else, or only names an encoding")
        return _tokenizer(*(state.get(key) for key in ("pat_str", "mergeable_ranks", "special_tokens")))
    except (ValueError, UserError) as error:
        reason = error.problem if isinstance(error, UserError) else error
        raise UserError(f"{path} holds no tokenizer of nanochat: {reason}", ELSEWHERE) from None


def _tokenizer(pattern: Any, ranks: Any, special: Any) -> Tokenizer:
    """A tokenizer of a split pattern, the tokens' ids, and those of the special tokens."""
    if not isinstance(pattern, str) or not isinstance(ranks, dict) or not isinstance(special, dict):
        raise ValueError("its pattern or its tokens are missing")
    if not all(type(token) is bytes and type(rank) is int for token, rank in ranks.items()):
        raise ValueError("its tokens are not bytes with ids")
    if max(map(len, ranks), default=0) > LONGEST:
        raise ValueError(f"a token has more than {LONGEST} bytes")
    if sum(len(token) ** 2 for token in ranks) > LARGEST_WORK:
        raise ValueError("its tokens are too long")
    if special != {name: len(ranks) + place for place, name in enumerate(SPECIAL_TOKENS)}:
        raise ValueError("its special tokens are not the nine of nanochat, after all others")
    if not cuts_all(pattern):
        raise ValueError("its split pattern cannot cut every text")
    return Tokenizer(ranks, pattern)
