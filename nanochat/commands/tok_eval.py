"""Measure how far the tokenizer compresses texts of several kinds, in bytes per token."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from nanochat.console import UserError, command, say
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
    from nanochat.corpus import Shards, find_info
    from nanochat.tokenizer import Tokenizer, compare_tokenizers, first_documents, learnt_from

    if config.max_mb <= 0:
        raise UserError("--max_mb must be above 0")
    began = time.monotonic()
    tokenizer = Tokenizer.load(tokenizer_dir())
    dataset = config.dataset or None
    if dataset is None and (recorded := learnt_from()) and find_info(recorded):
        dataset = recorded
    texts: dict[str, list[str]] = {}
    if dataset:
        texts = {split: first_documents(Shards.open(dataset, split), config.max_mb * 1e6) for split in ("train", "val")}
    found = compare_tokenizers(tokenizer, texts)
    found.show()
    seconds = time.monotonic() - began
    summary = {
        "vocab_size": tokenizer.vocab_size,
        "hash": tokenizer.hash,
        "dataset": dataset,
        **found.to_json(),
        "seconds": round(seconds, 2),
    }
    MetricsWriter(runs_dir("tok_eval") / FILE).write("summary", **summary)
    if config.json:
        write_json(config.json, {"version": 1, "command": "tok_eval", **summary})
    on = f"{found.ours['val'].bytes_per_token:.2f} on the validation text of {dataset}, " if dataset else ""
    prose = found.ours["prose"].bytes_per_token
    say(f"tok_eval: bytes per token {on}{prose:.2f} on English prose, in {seconds:.1f}s")


main = command(Config, run, __doc__)
