"""Learn a tokenizer: how much text is read, how many digits a token may have, and what is recorded about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nanochat.console import Progress, UserError, warn
from nanochat.metrics import FILE, MetricsWriter, last, read_metrics
from nanochat.paths import runs_dir
from nanochat.tokenizer.pattern import split_pattern
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.tokenizer.train import train_bpe

SMALL_VOCAB = 4096
RUN = "tok_train"  # whose metrics say what the tokenizer was learnt from


@dataclass(frozen=True)
class LearnSettings:
    """How large a vocabulary is wanted, special tokens included, and how many characters are read at most.

    doc_cap: characters of one document. digits: in one token at most; "auto" is fewer for a small vocabulary.
    """

    vocab_size: int
    max_chars: int
    doc_cap: int
    digits: str = "auto"

    def __post_init__(self) -> None:
        if self.max_chars < 1 or self.doc_cap < 1:
            raise UserError("--max_chars and --doc_cap must be at least 1")
        smallest = 256 + len(SPECIAL_TOKENS)
        if self.vocab_size < smallest:
            raise UserError(
                f"a vocabulary of {self.vocab_size:,} is too small for the bytes and the special tokens",
                f"Use --vocab_size={smallest} or more",
            )

    def digits_for(self, vocab_size: int) -> int:
        """Most digits in one token, for a vocabulary of that size."""
        return int(self.digits) if self.digits != "auto" else 1 if vocab_size < SMALL_VOCAB else 2


@dataclass(frozen=True)
class Learnt:
    """A tokenizer, the most digits in one of its tokens, and how many characters it was learnt from."""

    tokenizer: Tokenizer
    digits: int
    characters: int

    def record(self, dataset: str, seconds: float) -> None:
        """Add it to the metrics, where the report looks."""
        lengths = [length for length in self.tokenizer.token_bytes if length]
        MetricsWriter(runs_dir(RUN) / FILE).write(
            "summary",
            dataset=dataset,
            vocab_size=self.tokenizer.vocab_size,
            digits=self.digits,
            characters=self.characters,
            token_bytes_mean=round(sum(lengths) / len(lengths), 3),
            token_bytes_max=max(lengths),
            hash=self.tokenizer.hash,
            seconds=round(seconds, 2),
        )


def learnt_from() -> str | None:
    """The dataset that was recorded last; it may be gone."""
    record = last(read_metrics(runs_dir(RUN) / FILE), "summary")
    return record["dataset"] if record else None


def learn_tokenizer(documents: Iterable[str], name: str, size: int, settings: LearnSettings) -> Learnt:
    """A tokenizer of the wanted size or, with a warning, of the size that the text supports.

    documents: they may be read twice. name: of the text, for the warning. size: of the text in bytes, for the bar.
    """
    text = _Capped(documents, size, settings)
    wanted = settings.vocab_size - len(SPECIAL_TOKENS)
    digits = settings.digits_for(settings.vocab_size)
    ranks = train_bpe(text, wanted, split_pattern(digits))
    supported = len(ranks) + len(SPECIAL_TOKENS)
    if supported < settings.vocab_size:
        if (fewer := settings.digits_for(supported)) != digits:
            digits = fewer  # as if that small vocabulary had been asked for
            ranks = train_bpe(text, min(wanted, SMALL_VOCAB - 1 - len(SPECIAL_TOKENS)), split_pattern(digits))
        warn(
            f"warning: the text of {name} supports only {len(ranks) + len(SPECIAL_TOKENS):,} tokens, not "
            f"{settings.vocab_size:,}: taking those"
        )
    return Learnt(Tokenizer(ranks, split_pattern(digits)), digits, text.characters)


class _Capped:
    """Documents, cut to what the settings allow. characters: how many the last pass over them read."""

    def __init__(self, documents: Iterable[str], size: int, settings: LearnSettings) -> None:
        self._documents, self._size, self._settings = documents, size, settings
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        most = self._settings.max_chars
        self.characters = 0
        with Progress(min(most, self._size) / 1e6, RUN, "M characters") as bar:
            for document in self._documents:
                text = document[: min(self._settings.doc_cap, most - self.characters)]
                self.characters += len(text)
                yield text
                bar.advance(len(text) / 1e6)
                if self.characters == most:
                    return
