"""Compare a tokenizer with well-known ones on the same texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nanochat.console import say
from nanochat.tokenizer.compression import PEERS, Compression, cache_dir, measure_compression, peer_encoder
from nanochat.tokenizer.samples import SAMPLES
from nanochat.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Comparison:
    """The compression of every text, by its name: `ours`, and each peer's."""

    ours: dict[str, Compression]
    peers: dict[str, dict[str, Compression]]

    def show(self) -> None:
        """A line per text."""
        names = ("ours", *self.peers)
        say(f"{'':<10} {'':>11}" + "".join(f" | {name + ' tokens':>13} {'bytes/token':>11}" for name in names))
        for name, result in self.ours.items():
            rows = [result, *(peer[name] for peer in self.peers.values())]
            cells = "".join(f" | {row.tokens:>13,} {row.bytes_per_token:>11.2f}" for row in rows)
            ratios = "".join(
                f" | {result.bytes_per_token / row.bytes_per_token:.2f} x {peer}"
                for peer, row in zip(self.peers, rows[1:], strict=True)
            )
            say(f"{name:<10} {result.bytes:>9,} B{cells}{ratios}")
        if self.peers:
            say("  (the last columns: our bytes per token as a multiple of theirs)")

    def to_json(self) -> dict[str, Any]:
        peers = {peer: _json(results) for peer, results in self.peers.items()}
        return {"texts": _json(self.ours), "peers": peers}


def _json(results: Mapping[str, Compression]) -> dict[str, Any]:
    return {name: result.to_json() for name, result in results.items()}


def compare_tokenizers(tokenizer: Tokenizer, texts: Mapping[str, list[str]]) -> Comparison:
    """Measure SAMPLES and these texts; a peer whose ranks are not on this machine is left out, with a message."""
    texts = {**{name: [text] for name, text in SAMPLES.items()}, **texts}
    encoders = {name: encode for name in PEERS if (encode := peer_encoder(name))}
    for name in (name for name in PEERS if name not in encoders):
        say(
            f"tok_eval: not compared with {name}, whose ranks are neither in tiktoken's cache {cache_dir()} "
            f"nor in an installed {PEERS[name].package}"
        )
    ours = {name: measure_compression(tokenizer.encode_batch, group) for name, group in texts.items()}
    peers = {
        peer: {name: measure_compression(encode, texts[name]) for name in texts} for peer, encode in encoders.items()
    }
    return Comparison(ours, peers)


def first_documents(documents: Iterable[str], size: float) -> list[str]:
    """The first documents, about `size` bytes of them."""
    found: list[str] = []
    for text in documents:
        found.append(text)
        size -= len(text.encode("utf-8"))
        if size <= 0:
            break
    return found
