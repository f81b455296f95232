"""Conversations as token ids, with a mask of what the model shall learn to say."""

from __future__ import annotations

from nanochat.console import UserError
from nanochat.conversation import Conversation, Message, Part, PartType
from nanochat.tokenizer import special
from nanochat.tokenizer.tokenizer import Tokenizer

FENCES: dict[PartType, tuple[str, str]] = {
    "python": (special.PYTHON_START, special.PYTHON_END),
    "python_output": (special.OUTPUT_START, special.OUTPUT_END),
}


def render_conversation(
    tokenizer: Tokenizer, conversation: Conversation, max_tokens: int | None = None
) -> tuple[list[int], list[int]]:
    """(ids, mask), cut after `max_tokens`; the mask is 1 on what the assistant says.

    That is its text, its code with both fences and <|assistant_end|>; never what the tool answered, and nothing of an
    answer that is not to be learnt.
    """
    ids = [tokenizer.bos]
    mask = [0]

    def add(tokens: list[int], learnt: bool) -> None:
        ids.extend(tokens)
        mask.extend([int(learnt)] * len(tokens))

    for message in system_joined(conversation.checked()).messages:
        if message.role == "user":
            start, end = special.USER_START, special.USER_END
        else:
            start, end = special.ASSISTANT_START, special.ASSISTANT_END
        learnt = message.role == "assistant" and message.learnt
        add([tokenizer.special(start)], False)
        for part in message.parts:
            # encode never makes special ids, so no text can close a message or start a tool call
            tokens = tokenizer.encode(part.text)
            if part.type in FENCES:
                opening, closing = FENCES[part.type]
                tokens = [tokenizer.special(opening), *tokens, tokenizer.special(closing)]
            add(tokens, learnt and part.type != "python_output")
        add([tokenizer.special(end)], learnt)
    return ids[:max_tokens], mask[:max_tokens]


def render_prompt(tokenizer: Tokenizer, conversation: Conversation) -> list[int]:
    """Ids up to and including <|assistant_start|>; the model continues them to answer the last user message."""
    if not conversation.messages or conversation.messages[-1].role != "user":
        raise UserError("there is nothing to answer: the last message is not from the user", "end with a user message")
    ids, _ = render_conversation(tokenizer, conversation)
    return [*ids, tokenizer.special(special.ASSISTANT_START)]


def render_partial(tokenizer: Tokenizer, conversation: Conversation) -> list[int]:
    """Ids up to the end of the last message, an answer that is left open: the model goes on from there."""
    if not conversation.messages or conversation.messages[-1].role != "assistant":
        raise UserError("there is nothing to go on from: the last message is not the assistant's", "end with an answer")
    ids, _ = render_conversation(tokenizer, conversation)
    return ids[:-1]


def system_joined(conversation: Conversation) -> Conversation:
    """Put the system text and a blank line before the first user text: there is no system token."""
    first, *rest = conversation.messages
    if first.role != "system":
        return conversation
    user = Message("user", (Part("text", f"{first.text}\n\n{rest[0].text}"),))
    return Conversation((user, *rest[1:]))
