"""What was said before an answer, as the page sends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from nanochat.conversation import Conversation
from nanochat.serve.schema import PartBody, Text


class Said(BaseModel):
    role: Literal["user", "assistant"]
    content: Text | list[PartBody]


def conversation_of(system: str, messages: Sequence[Said]) -> Conversation:
    """UserError where they are none."""
    first = [{"role": "system", "content": system}] if system else []
    given = [{**message.model_dump(), "content": message.model_dump()["content"] or ""} for message in messages]
    return Conversation.from_dict({"messages": [*first, *given]})
