"""Learn a byte-pair vocabulary from text."""

from __future__ import annotations

import json
from collections.abc import Iterable

from nanochat.console import UserError
from nanochat.tokenizer.bytechars import CHAR_TO_BYTE
from nanochat.tokenizer.pattern import SPLIT_PATTERN


def train_bpe(texts: Iterable[str], vocab_size: int, pattern: str = SPLIT_PATTERN) -> dict[bytes, int]:
    """Mergeable ranks (token bytes -> id), `vocab_size` of them or as many as the text supports.

    Ids 0..255 are the bytes, then come the merges in the order in which they were learnt.
    """
    if vocab_size < 256:
        raise UserError(f"a vocabulary of {vocab_size} cannot hold the 256 bytes", "choose at least 256")
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
    learner.train_from_iterator(texts, trainer)
    ranks = {bytes([value]): value for value in range(256)}
    for left, right in json.loads(learner.to_str())["model"]["merges"]:
        token = bytes(CHAR_TO_BYTE[char] for char in left + right)
        # the same bytes can be reached by two merges; the first one gives the rank
        ranks.setdefault(token, len(ranks))
    return ranks
