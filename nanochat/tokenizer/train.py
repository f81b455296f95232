"""Learn a byte-pair vocabulary from text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sized

from nanochat.console import Progress, UserError, warn
from nanochat.machine import cpu_count
from nanochat.tokenizer.bytechars import CHAR_TO_BYTE
from nanochat.tokenizer.native import MISSING, bpe, native_digits
from nanochat.tokenizer.pattern import SPLIT_PATTERN

BATCH_CHARS = 16_000_000  # given to the native counter at once; no more is in memory
MOST_MERGES = 2**31  # ids have 32 bits
MERGES_AT_ONCE = 256  # learnt between two checks for Ctrl-C and of the clock


def train_bpe(texts: Iterable[str], vocab_size: int, pattern: str = SPLIT_PATTERN) -> dict[bytes, int]:
    """Mergeable ranks (token bytes -> id), `vocab_size` of them or as many as the text supports.

    Ids 0..255 are the bytes, then come the merges in the order learnt. Each merges the neighbouring tokens that occur
    most often together; in a tie, those with the smallest ids. `texts` is read once, in batches, on all cores. The
    merges are those of the rustbpe package; without the native trainer, ties may be in another order.
    """
    if vocab_size < 256:
        raise UserError(f"a vocabulary of {vocab_size} cannot hold the 256 bytes", "choose at least 256")
    if isinstance(texts, (str, bytes)):
        raise UserError("train_bpe needs many documents, not one string", "pass a list or an iterator of them")
    batches = _batches(_shown(texts, len(texts)) if isinstance(texts, Sized) else texts)
    tokens = [bytes([value]) for value in range(256)]
    if bpe is None:
        warn(f"{MISSING}: training through the tokenizers package instead, which takes longer")
        tokens += _learn_with_tokenizers(batches, vocab_size, pattern)
    else:
        for left, right in _learn(batches, vocab_size - 256, pattern):
            tokens.append(tokens[left] + tokens[right])
    return {token: rank for rank, token in enumerate(tokens)}


def _shown(texts: Iterable[str], count: int) -> Iterator[str]:
    with Progress(count, "reading", "documents") as bar:
        for text in texts:
            yield text
            bar.advance(1)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of about BATCH_CHARS characters; UserError for what is not text, or when there is none at all."""
    batch: list[str] = []
    size = total = 0
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"document {number} is {type(text).__name__}, not text", "pass strings")
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARS:
            total += size
            full, batch, size = batch, [], 0
            yield full
            del full
    if total + size == 0:
        raise UserError("there is no text to learn from", "pass at least one document that is not empty")
    yield batch


def _learn(batches: Iterator[list[str]], wanted: int, pattern: str) -> list[tuple[int, int]]:
    """The merges as pairs of ids, by the native trainer."""
    digits = native_digits(pattern)
    trainer = bpe.Trainer(digits or 0, cpu_count())
    for batch in batches:
        try:
            trainer.add(batch if digits else _chunks(batch, pattern))
        except bpe.SurrogateError as error:
            raise _half_of_a_pair(str(error) if digits else "a document holds half of a surrogate pair") from None
        del batch  # before the next one is read
    with Progress(wanted, "learning", "merges") as bar:
        trainer.prepare(min(wanted, MOST_MERGES))
        while found := trainer.learn(MERGES_AT_ONCE):
            bar.advance(found)
    return trainer.merges()


def _half_of_a_pair(problem: str) -> UserError:
    return UserError(problem, "replace it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')")


def _chunks(texts: list[str], pattern: str) -> list[str]:
    """The chunks that a non-native pattern makes; characters that it does not match are left out."""
    import regex

    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise UserError(f"the split pattern is not a regular expression: {error}") from None
    return [match.group() for text in texts for match in compiled.finditer(text)]


def _learn_with_tokenizers(batches: Iterator[list[str]], vocab_size: int, pattern: str) -> list[bytes]:
    """The learnt tokens in order."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    learner.train_from_iterator(_encodable(batches), trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [bytes(CHAR_TO_BYTE[char] for char in left + right) for left, right in merges]


def _encodable(batches: Iterator[list[str]]) -> Iterator[str]:
    for number, text in enumerate(text for batch in batches for text in batch):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _half_of_a_pair(f"document {number} holds half of a surrogate pair") from None
        yield text
