"""A tiny tokenizer and a random model of a few layers."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch

from nanochat.inference import Engine
from nanochat.model import GPT, ModelConfig
from nanochat.model import config as config_module
from nanochat.scale import Arch
from nanochat.tokenizer import Tokenizer, train_bpe

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "How many letters are in the word strawberry? There are ten letters: s t r a w b e r r y.",
    "Grüße aus Köln: 12 + 30 = 42, naïve café, 你好, 🙂.",
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(SENTENCES * 3, 300))


def random_model(
    tokenizer: Tokenizer, seq_len: int = 64, dtype: torch.dtype = torch.float32, arch: Arch = "classic"
) -> GPT:
    """Weights large enough for a peaked, varied choice of tokens. modern: with windows shorter than most prompts."""
    config = ModelConfig(depth=2, width=32, heads=4, kv_heads=2, vocab_size=tokenizer.vocab_size + 3, seq_len=seq_len)
    if arch == "modern":
        config = replace(config, arch=arch, depth=3, rope_base=100000.0, windows="SSL", bigram=31)
    tile, config_module.SHORT_TILE = config_module.SHORT_TILE, 8
    try:
        model = GPT(config, dtype).to(dtype)
    finally:
        config_module.SHORT_TILE = tile
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=g) * 0.4)
    return model.eval()


@pytest.fixture(scope="session", params=get_args(Arch))
def model(tokenizer: Tokenizer, request: pytest.FixtureRequest) -> GPT:
    return random_model(tokenizer, arch=request.param)


@pytest.fixture
def engine(model: GPT, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer)
