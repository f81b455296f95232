"""Text, and conversations, to token ids and back."""

from __future__ import annotations

from nanochat.conversation import Conversation, Message, Part  # also by this door, as tasks of users have it
from nanochat.tokenizer.pattern import SPLIT_PATTERN, split_pattern
from nanochat.tokenizer.render import render_conversation, render_prompt
from nanochat.tokenizer.special import SPECIAL_TOKENS
from nanochat.tokenizer.stream import StreamDecoder
from nanochat.tokenizer.tokenizer import Tokenizer
from nanochat.tokenizer.train import train_bpe

__all__ = [
    "SPECIAL_TOKENS",
    "SPLIT_PATTERN",
    "Conversation",
    "Message",
    "Part",
    "StreamDecoder",
    "Tokenizer",
    "render_conversation",
    "render_prompt",
    "split_pattern",
    "train_bpe",
]
