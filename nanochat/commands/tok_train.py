"""Train the tokenizer on a dataset."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from nanochat.console import Progress, UserError, run_command, say, warn
from nanochat.metrics import FILE, MetricsWriter
from nanochat.paths import runs_dir, tokenizer_dir

SMALL_VOCAB = 4096


@dataclass
class Config:
    dataset: str = "climbmix"
    """Prepared dataset to learn from (python -m nanochat.dataset)."""
    vocab_size: int = 32768
    """Number of tokens, the 256 bytes and the nine special tokens included; fewer when the text supports no more."""
    max_chars: int = 2_000_000_000
    """Characters to read at most."""
    doc_cap: int = 10_000
    """Characters to read of one document at most."""
    digits: Literal["auto", "1", "2", "3"] = "auto"
    """Digits in one token at most; auto: 1 below 4,096 tokens (tiny models add digit by digit), else 2."""


def run(config: Config) -> None:
    from nanochat.corpus.names import load_info
    from nanochat.corpus.shards import Shards
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, split_pattern, train_bpe

    if config.max_chars < 1 or config.doc_cap < 1:
        raise UserError("--max_chars and --doc_cap must be at least 1")
    smallest = 256 + len(SPECIAL_TOKENS)
    if config.vocab_size < smallest:
        raise UserError(
            f"a vocabulary of {config.vocab_size:,} is too small for the bytes and the special tokens",
            f"Use --vocab_size={smallest} or more",
        )
    began = time.monotonic()
    info = load_info(config.dataset)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        read = 0
        with Progress(min(config.max_chars, info.train_bytes) / 1e6, "tok_train", "M characters") as bar:
            for document in Shards.of(info, "train"):
                text = document[: min(config.doc_cap, config.max_chars - read)]
                read += len(text)
                yield text
                bar.advance(len(text) / 1e6)
                if read == config.max_chars:
                    return

    wanted = config.vocab_size - len(SPECIAL_TOKENS)
    digits = digits_for(config.digits, config.vocab_size)
    ranks = train_bpe(texts(), wanted, split_pattern(digits))
    supported = len(ranks) + len(SPECIAL_TOKENS)
    if supported < config.vocab_size:
        if (fewer := digits_for(config.digits, supported)) != digits:
            digits = fewer  # as if that small vocabulary had been asked for
            ranks = train_bpe(texts(), min(wanted, SMALL_VOCAB - 1 - len(SPECIAL_TOKENS)), split_pattern(digits))
        warn(
            f"warning: the text of {info.name} supports only {len(ranks) + len(SPECIAL_TOKENS):,} tokens, not "
            f"{config.vocab_size:,}: taking those"
        )
    tokenizer = Tokenizer(ranks, split_pattern(digits))
    tokenizer.save(tokenizer_dir())
    seconds = time.monotonic() - began
    lengths = [length for length in tokenizer.token_bytes if length]
    MetricsWriter(runs_dir("tok_train") / FILE).write(
        "summary",
        dataset=info.name,
        vocab_size=tokenizer.vocab_size,
        digits=digits,
        characters=read,
        token_bytes_mean=round(sum(lengths) / len(lengths), 3),
        token_bytes_max=max(lengths),
        hash=tokenizer.hash,
        seconds=round(seconds, 2),
    )
    say(
        f"tok_train: {tokenizer.vocab_size:,} tokens from {read / 1e6:,.1f} M characters of {info.name} "
        f"in {seconds:.1f}s, at most {digits} digit{'s' * (digits > 1)} a token, in {tokenizer_dir()}"
    )


def digits_for(wanted: str, vocab_size: int) -> int:
    """Digits in one token at most."""
    return int(wanted) if wanted != "auto" else 1 if vocab_size < SMALL_VOCAB else 2


def main() -> None:
    run_command(Config, run, description=__doc__)


if __name__ == "__main__":
    main()
