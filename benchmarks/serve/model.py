"""Checkpoints with random weights, for a server that is started as people start it."""

from __future__ import annotations

import itertools
import os
import random
import string
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat.model import GPT
    from nanochat.tokenizer import Tokenizer

STAGE = "sft"
TINY_WINDOW = 1024  # tokens of a prompt and its answer


def words_tokenizer(vocab_size: int) -> Tokenizer:
    """All bytes, then words of four letters after a space: an answer is text of the usual length."""
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

    words = (f" {''.join(letters)}".encode() for letters in itertools.product(string.ascii_lowercase, repeat=4))
    tokens = itertools.chain((bytes([byte]) for byte in range(256)), words)
    return Tokenizer(
        {token: rank for rank, token in enumerate(itertools.islice(tokens, vocab_size - len(SPECIAL_TOKENS)))}
    )


def words(seed: int, count: int) -> str:
    """A text of that many tokens of the tokenizer above, if its vocabulary has 26,000 or more."""
    rng = random.Random(seed)
    return "".join(f" a{''.join(rng.choices(string.ascii_lowercase, k=3))}" for _ in range(count))


def tiny_model() -> tuple[GPT, Tokenizer]:
    """A model that answers in milliseconds, mostly at length; its answers differ from prompt to prompt."""
    import torch

    from nanochat.model import GPT, ModelConfig
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe

    tokenizer = Tokenizer(train_bpe(["Grüße 🙂: how many letters are in the word strawberry?"] * 3, 290))
    model = GPT(ModelConfig(2, 64, 4, 4, tokenizer.vocab_size, TINY_WINDOW)).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=g) * 0.4)
        model.head.weight[-len(SPECIAL_TOKENS) :] = 0  # rare: most answers would end, or call the calculator, at once
    return model, tokenizer


def write(base: Path, model: GPT, tokenizer: Tokenizer) -> None:
    """The only checkpoint of a base folder."""
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    from nanochat import checkpoint
    from nanochat.model import save_weights

    with checkpoint.create(STAGE, f"d{model.config.depth}", 1) as folder:
        save_weights(model.config, model.state_dict(), folder)
        tokenizer.save(folder / "tokenizer")
