"""Bytes per token, of our tokenizers and of well-known ones."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Sequence, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat.tokenizer.encoding import make_encoder
from nanochat.tokenizer.tokenizer import parse_ranks

BLOBS = "https://openaipublic.blob.core.windows.net/encodings/"  # where tiktoken gets the ranks
# their split patterns, as in tiktoken
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


@dataclass(frozen=True)
class Compression:
    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / max(self.tokens, 1)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"bytes_per_token": round(self.bytes_per_token, 4)}


@dataclass(frozen=True)
class Peer:
    """A known tokenizer: its ranks file, cached by tiktoken and also at `inside` in `package`, and its pattern."""

    file: str
    sha256: str
    package: str
    inside: str
    pattern: str


PEERS = {
    "GPT-2": Peer(
        "r50k_base.tiktoken",
        "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        "whisper",  # pip install openai-whisper
        "assets/gpt2.tiktoken",
        GPT2_PATTERN,
    ),
    "GPT-4": Peer(
        "cl100k_base.tiktoken",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        "litellm",
        "litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        GPT4_PATTERN,
    ),
}

Encode = Callable[[list[str]], Sequence[Sized]]


def measure_compression(encode: Encode, texts: list[str]) -> Compression:
    """Bytes and tokens of the texts together."""
    return Compression(sum(len(text.encode("utf-8")) for text in texts), sum(len(ids) for ids in encode(texts)))


def peer_encoder(name: str) -> Encode | None:
    """Batch encoder of a peer, or None if its ranks are not on this machine; never uses the network."""
    peer = PEERS[name]
    for path in _places(peer):
        if path.is_file() and hashlib.sha256(content := path.read_bytes()).hexdigest() == peer.sha256:
            encoder = make_encoder(parse_ranks(content.decode(), path), peer.pattern)
            return lambda texts: encoder.encode_arrays(texts, 1)
    return None


def cache_dir() -> Path:
    """Where tiktoken keeps the files it downloaded."""
    chosen = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / "data-gym-cache"


def _places(peer: Peer) -> list[Path]:
    # finding a package's folder does not import it
    spec = importlib.util.find_spec(peer.package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    cached = cache_dir() / hashlib.sha1((BLOBS + peer.file).encode()).hexdigest()
    return [cached, *(Path(folder) / peer.inside for folder in folders)]
