"""Making a prompt fit the model's context, whose length in tokens is called the window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.conversation import Conversation
from nanochat.tokenizer import render_prompt

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer


def answer_room(window: int, max_tokens: int) -> int:
    """Tokens to keep free for an answer when something is cut anyway: at most a quarter of the window."""
    return max(1, min(max_tokens, window // 4))


def fit_ids(prompt: list[int], bos: int, window: int, max_tokens: int) -> list[int]:
    """The prompt itself if it leaves room for a token, else its newest tokens, after its <|bos|>."""
    if len(prompt) < window:
        return prompt
    keep = max(1, window - answer_room(window, max_tokens))
    if prompt[0] == bos and keep > 1:
        return [bos, *prompt[len(prompt) - keep + 1 :]]
    return prompt[len(prompt) - keep :]


def fit_conversation(tokenizer: Tokenizer, conversation: Conversation, window: int, max_tokens: int) -> list[int]:
    """Prompt ids of a conversation, its oldest exchanges left out until an answer has room.

    The system message stays. `fit_ids` cuts a last message that is too long by itself.
    """
    system = conversation.messages[:1] if conversation.messages[0].role == "system" else ()
    turns = conversation.messages[len(system) :]
    ids: list[int] = []
    # From the newest one back, so that only as much is rendered as the window holds.
    for first in range(len(turns) - 1, -1, -2):
        longer = render_prompt(tokenizer, Conversation(system + turns[first:]))
        if ids and len(longer) > window - answer_room(window, max_tokens):
            break
        ids = longer
    return fit_ids(ids, tokenizer.bos, window, max_tokens)
