"""Train the tokenizer on a dataset."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from nanochat.console import command, say
from nanochat.paths import tokenizer_dir


@dataclass
class Config:
    dataset: str = "climbmix"
    """Prepared dataset to learn from (python -m nanochat.dataset)."""
    vocab_size: int = 32768
    """Number of tokens, the 256 bytes and the nine special tokens included; fewer when the text supports no more."""
    max_chars: int = 2_000_000_000
    """Most characters to read."""
    doc_cap: int = 10_000
    """Most characters to read of one document."""
    digits: Literal["auto", "1", "2", "3"] = "auto"
    """Most digits in one token; auto: 1 below 4,096 tokens (tiny models add digit by digit), else 2."""


def run(config: Config) -> None:
    from nanochat.corpus import Shards, load_info
    from nanochat.tokenizer import LearnSettings, learn_tokenizer

    settings = LearnSettings(config.vocab_size, config.max_chars, config.doc_cap, config.digits)
    began = time.monotonic()
    info = load_info(config.dataset)
    learnt = learn_tokenizer(Shards.of(info, "train"), info.name, info.train_bytes, settings)
    learnt.tokenizer.save(tokenizer_dir())
    seconds = time.monotonic() - began
    learnt.record(info.name, seconds)
    say(
        f"tok_train: {learnt.tokenizer.vocab_size:,} tokens from {learnt.characters / 1e6:,.1f} M characters of "
        f"{info.name} in {seconds:.1f}s, at most {learnt.digits} digit{'s' * (learnt.digits > 1)} a token, "
        f"in {tokenizer_dir()}"
    )


main = command(Config, run, __doc__)
