"""What training changes in the user's own conversations, reported with file and counts before it starts."""

from __future__ import annotations

import re
from functools import partial

from nanochat.console import Progress, UserError, say
from nanochat.conversation import Conversation
from nanochat.tasks import CustomJSON, Mixture
from nanochat.tasks.customjson import bad_left_out
from nanochat.tokenizer import Tokenizer, render_conversation
from nanochat.train import state as states

CUT = "cut at the context of {} tokens"
LEFT_OUT = "left out, since no answer begins within the context of {} tokens"
MERGED = "with the system text merged into the first question"
EMPTY = "with an empty answer, which teaches silence"
HALVED = "with half a character (an unpaired surrogate), which is read as U+FFFD"

SURROGATE = re.compile("[\ud800-\udfff]")
Found = dict[str, list[int]]  # change -> indices of the conversations


def take_stock(
    mixture: Mixture, val_mixture: Mixture, tokenizer: Tokenizer, max_tokens: int, strict: bool, stage: str
) -> None:
    """Remove conversations that would teach nothing from both mixtures, and report changes to the others.

    max_tokens: the longest conversation that is not cut. strict: UserError when anything would be changed.
    """
    changed = {}
    for place, (items, _) in enumerate(mixture.sets):
        if not isinstance(items, CustomJSON):
            continue
        if items.marked_bad:  # nothing to mend, so that it is no error with `strict`
            say(f"{stage}: in {items.path}, {bad_left_out(items.marked_bad)}")
        found = states.shared(partial(changes, items, tokenizer, max_tokens))
        left_out = set(found.pop(LEFT_OUT, []))
        mixture.leave_out(place, left_out)
        for other, (others, _) in enumerate(val_mixture.sets):
            if isinstance(others, CustomJSON) and others.path == items.path:
                val_mixture.leave_out(other, left_out)
        if left_out:
            found[LEFT_OUT] = sorted(left_out)
        if found:
            changed[items.path] = _sentence(items, found, max_tokens - 1)
    if strict and changed:
        raise UserError("; ".join(changed.values()), f"Fix the file{'s' * (len(changed) > 1)}, or leave --strict out")
    for sentence in changed.values():
        say(f"{stage}: {sentence}")


def changes(items: CustomJSON, tokenizer: Tokenizer, max_tokens: int) -> Found:
    """The changes that training would make, with the conversations that they concern."""
    found: Found = {}
    with Progress(len(items), f"reading {items.name}", "conversations") as bar:
        for number in range(len(items)):
            for what in _changes(items[number], tokenizer, max_tokens):
                found.setdefault(what, []).append(number)
            bar.advance(1)
    return found


def _changes(conversation: Conversation, tokenizer: Tokenizer, max_tokens: int) -> list[str]:
    ids, mask = render_conversation(tokenizer, conversation)
    if not any(mask[:max_tokens]):
        return [LEFT_OUT]
    found = [CUT] if len(ids) > max_tokens else []
    if conversation.messages[0].role == "system":
        found.append(MERGED)
    answers = (message for message in conversation.messages if message.role == "assistant" and message.learnt)
    if any(not any(part.text.strip() for part in answer.parts) for answer in answers):
        found.append(EMPTY)
    if any(SURROGATE.search(part.text) for message in conversation.messages for part in message.parts):
        found.append(HALVED)
    return found


def _sentence(items: CustomJSON, found: Found, context: int) -> str:
    """In mine.jsonl, of 64 conversations: 3 cut at the context of 256 tokens (first: line 17); 1 with ..."""
    parts = [
        f"{len(numbers):,} {what.format(context)} (first: {items.places[numbers[0]].removesuffix(f' of {items.path}')})"
        for what, numbers in found.items()
    ]
    return f"in {items.path}, of {len(items):,} conversation{'s' * (len(items) != 1)}: {'; '.join(parts)}"
