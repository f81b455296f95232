"""Text, and conversations, to token ids and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.conversation import Conversation, Message, Part  # users' tasks import them from here
from nanochat.doors import lazy
from nanochat.tokenizer.pattern import SPLIT_PATTERN, split_pattern
from nanochat.tokenizer.render import render_conversation, render_partial, render_prompt
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.stream import StreamDecoder
from nanochat.tokenizer.tokenizer import Tokenizer, read_vocab_size
from nanochat.tokenizer.train import train_bpe

if TYPE_CHECKING:
    from nanochat.tokenizer.bytechars import CHAR_TO_BYTE
    from nanochat.tokenizer.comparison import compare_tokenizers, first_documents
    from nanochat.tokenizer.compression import measure_compression
    from nanochat.tokenizer.learning import LearnSettings, learn_tokenizer, learnt_from

__all__ = [
    "CHAR_TO_BYTE",
    "SPECIAL_TOKENS",
    "SPLIT_PATTERN",
    "Conversation",
    "LearnSettings",
    "Message",
    "Part",
    "StreamDecoder",
    "Tokenizer",
    "compare_tokenizers",
    "first_documents",
    "learn_tokenizer",
    "learnt_from",
    "measure_compression",
    "read_vocab_size",
    "render_conversation",
    "render_partial",
    "render_prompt",
    "split_pattern",
    "train_bpe",
]

__getattr__ = lazy(
    __name__,
    {
        "bytechars": "CHAR_TO_BYTE",
        "comparison": "compare_tokenizers first_documents",
        "compression": "measure_compression",
        "learning": "LearnSettings learn_tokenizer learnt_from",
    },
)
