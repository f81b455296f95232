"""How many bytes a token covers, here and in tokenizers that people know."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# addresses and digests as in tiktoken itself
VOCAB_BPE = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_JSON = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
CL100K = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
BLOBS = "https://openaipublic.blob.core.windows.net/"


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
    """A tokenizer that tiktoken knows; files: address -> SHA-256."""

    encoding: str
    files: dict[str, str]


PEERS = {
    "gpt2": Peer(
        "gpt2",
        {
            "gpt-2/encodings/main/vocab.bpe": VOCAB_BPE,
            "gpt-2/encodings/main/encoder.json": ENCODER_JSON,
        },
    ),
    "gpt4": Peer(
        "cl100k_base",
        {"encodings/cl100k_base.tiktoken": CL100K},
    ),
}


def measure(encode: Callable[[list[str]], Sequence[Sequence[int]]], texts: list[str]) -> Compression:
    """Bytes and tokens of the texts together."""
    return Compression(sum(len(text.encode("utf-8")) for text in texts), sum(len(ids) for ids in encode(texts)))


def peer_encoder(name: str) -> Callable[[list[str]], Sequence[Sequence[int]]] | None:
    """Batch encoder of a peer, when tiktoken's cache has its files whole; never from the network."""
    peer = PEERS[name]
    if not all(_cached(file, digest) for file, digest in peer.files.items()):
        return None
    import tiktoken

    return tiktoken.get_encoding(peer.encoding).encode_ordinary_batch


def cache_dir() -> Path:
    """Where tiktoken keeps the files it downloaded."""
    chosen = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / "data-gym-cache"


def _cached(file: str, digest: str) -> bool:
    # checked whole, since tiktoken would download a damaged file again
    path = cache_dir() / hashlib.sha1((BLOBS + file).encode()).hexdigest()
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
