"""Measure how far the tokenizer compresses texts of several kinds, in bytes per token."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.console import UserError, run_command, say
from nanochat.metrics import FILE, MetricsWriter
from nanochat.paths import runs_dir, tokenizer_dir, write_json


@dataclass
class Config:
    dataset: str | None = None
    """Also measure on the shards of this prepared dataset (default: the one the tokenizer learnt from)."""
    max_mb: float = 4.0
    """Text to read of each split, in MB."""
    json: Path | None = None
    """Write the results to this file."""


def run(config: Config) -> None:
    from nanochat.tokenizer import Tokenizer
    from nanochat.tokenizer.compression import PEERS, cache_dir, measure, peer_encoder
    from nanochat.tokenizer.samples import SAMPLES

    if config.max_mb <= 0:
        raise UserError("--max_mb must be above 0")
    began = time.monotonic()
    tokenizer = Tokenizer.load(tokenizer_dir())
    texts = {name: [text] for name, text in SAMPLES.items()}
    dataset = config.dataset or _trained_on()
    if dataset:
        texts |= {split: _first(dataset, split, config.max_mb * 1e6) for split in ("train", "val")}
    encoders = {name: encode for name in PEERS if (encode := peer_encoder(name))}
    for name in (name for name in PEERS if name not in encoders):
        say(
            f"tok_eval: without {name}: its ranks are neither in tiktoken's cache {cache_dir()} "
            f"nor in an installed {PEERS[name].package}"
        )
    ours = {name: measure(tokenizer.encode_batch, group) for name, group in texts.items()}
    peers = {peer: {name: measure(encode, texts[name]) for name in texts} for peer, encode in encoders.items()}

    names = ("ours", *peers)
    say(f"{'':<10} {'':>11}" + "".join(f" | {name + ' tokens':>13} {'bytes/token':>11}" for name in names))
    for name, result in ours.items():
        rows = [result, *(peer[name] for peer in peers.values())]
        cells = "".join(f" | {row.tokens:>13,} {row.bytes_per_token:>11.2f}" for row in rows)
        ratios = "".join(
            f" | {result.bytes_per_token / row.bytes_per_token:.2f} x {peer}"
            for peer, row in zip(peers, rows[1:], strict=True)
        )
        say(f"{name:<10} {result.bytes:>9,} B{cells}{ratios}")
    if peers:
        say("  (the last columns: our bytes per token as a multiple of theirs)")
    seconds = time.monotonic() - began
    summary: dict[str, Any] = {
        "vocab_size": tokenizer.vocab_size,
        "hash": tokenizer.hash,
        "dataset": dataset,
        "texts": {name: result.to_json() for name, result in ours.items()},
        "peers": {peer: {name: result.to_json() for name, result in rows.items()} for peer, rows in peers.items()},
        "seconds": round(seconds, 2),
    }
    MetricsWriter(runs_dir("tok_eval") / FILE).write("summary", **summary)
    if config.json:
        write_json(config.json, {"version": 1, "command": "tok_eval", **summary})
    on = f"{ours['val'].bytes_per_token:.2f} on the validation text of {dataset}, " if dataset else ""
    prose = ours["prose"].bytes_per_token
    say(f"tok_eval: bytes per token {on}{prose:.2f} on English prose, in {seconds:.1f}s")


def _trained_on() -> str | None:
    """The dataset that tok_train recorded, when its shards are still there."""
    from nanochat.corpus.info import find_info
    from nanochat.metrics import last, read_metrics

    record = last(read_metrics(runs_dir("tok_train") / FILE), "summary")
    return record["dataset"] if record and find_info(record["dataset"]) else None


def _first(dataset: str, split: str, size: float) -> list[str]:
    """Documents from the beginning of a split, about `size` bytes of them."""
    from nanochat.corpus.shards import Shards

    found: list[str] = []
    for text in Shards.open(dataset, split):
        found.append(text)
        size -= len(text.encode("utf-8"))
        if size <= 0:
            break
    return found


def main() -> None:
    run_command(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
