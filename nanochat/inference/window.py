"""Making a prompt fit the model's context, whose length in tokens is called the window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.conversation import Conversation
from nanochat.tokenizer import render_conversation, render_partial, render_prompt

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


@dataclass(frozen=True)
class Fitted:
    """A prompt that leaves room for a token. left_out: messages that are not in it. cut: tokens that it is shorter than
    its last message, or its text."""

    ids: list[int]
    left_out: int = 0
    cut: int = 0


def fit_conversation(tokenizer: Tokenizer, conversation: Conversation, window: int, max_tokens: int) -> list[int]:
    """Prompt ids of a conversation, its oldest exchanges left out until an answer has room.

    The system message stays. `fit_ids` cuts a last message that is too long by itself.
    """
    return fit_messages(tokenizer, conversation, window, max_tokens).ids


def fit_messages(tokenizer: Tokenizer, conversation: Conversation, window: int, max_tokens: int) -> Fitted:
    """As fit_conversation, with what did not fit."""
    whole, left_out = _newest(tokenizer, conversation, window, max_tokens)
    ids = fit_ids(whole, tokenizer.bos, window, max_tokens)
    return Fitted(ids, left_out, len(whole) - len(ids))


def newest_exchanges(tokenizer: Tokenizer, conversation: Conversation, window: int, max_tokens: int) -> list[int]:
    """Prompt ids of the system message and as many of the newest exchanges as leave room for an answer, or more ids
    than that if even the newest one does not. An answer that is the last message is left open, to be continued."""
    return _newest(tokenizer, conversation, window, max_tokens)[0]


def _newest(tokenizer: Tokenizer, conversation: Conversation, window: int, max_tokens: int) -> tuple[list[int], int]:
    """The ids of `newest_exchanges`, and how many messages they are without."""
    system = conversation.messages[:1] if conversation.messages[0].role == "system" else ()
    turns = conversation.messages[len(system) :]
    last = len(turns) - 1 - (turns[-1].role == "assistant")
    render = render_prompt if turns[-1].role == "user" else render_partial
    ids = render(tokenizer, Conversation(system + turns[last:]))
    after = render(tokenizer, Conversation(turns[last:]))[1:]
    for first in range(last - 2, -1, -2):
        exchange = turns[first : first + 2]
        # Far more than fits need not be encoded.
        if sum(len(part.text) for message in exchange for part in message.parts) > window * tokenizer.longest:
            break
        longer = render_conversation(tokenizer, Conversation(system + exchange))[0] + after
        if len(longer) > window - answer_room(window, max_tokens):
            break
        ids, last = longer, first
        after = render_conversation(tokenizer, Conversation(exchange))[0][1:] + after
    return ids, last
