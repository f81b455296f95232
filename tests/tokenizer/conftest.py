from __future__ import annotations

import random

import pytest

from nanochat.tokenizer import SPLIT_PATTERN, Tokenizer, split_pattern, train_bpe
from nanochat.tokenizer.samples import SAMPLES


@pytest.fixture(scope="session")
def texts() -> list[str]:
    rng = random.Random(0)
    words = " ".join(SAMPLES.values()).split()
    return [*SAMPLES.values(), *(" ".join(rng.choices(words, k=60)) for _ in range(200))]


@pytest.fixture(scope="session", params=[1, 2, 3])
def any_tokenizer(request: pytest.FixtureRequest, texts: list[str]) -> Tokenizer:
    """One tokenizer for each number of digits in a chunk."""
    pattern = split_pattern(request.param)
    return Tokenizer(train_bpe(texts, 900, pattern), pattern)


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> Tokenizer:
    return Tokenizer(train_bpe(texts, 700), SPLIT_PATTERN)
