"""What the chat API accepts, with its limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanochat.console import UserError
from nanochat.conversation import Conversation

MAX_MESSAGES = 500
# Of a user's message. Answers in the history are limited only by the server that wrote them and by the body.
MAX_MESSAGE_CHARACTERS = 8000
MAX_CHARACTERS = 32_000  # in a conversation
MAX_PARTS = 100  # in a message
MOST_KEYS = 8  # in a part, so that one too many is told by its name
MAX_BODY_BYTES = 1 << 20


Text = Annotated[str, Field(max_length=MAX_BODY_BYTES)]  # whole characters; a plain str may hold half of one


class PartBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "python", "python_output"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _has_few_keys(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > MOST_KEYS:  # each would be an error of its own
            raise ValueError("a part has a type and a text, and no other keys")
        return given


class MessageBody(BaseModel):
    role: Literal["system", "user", "assistant"]
    # A body may hold half a million parts that are none: to tell of them all would take seconds, in which nobody else
    # gets on. The first is enough.
    content: Text | Annotated[list[PartBody], Field(fail_fast=True)]

    @property
    def characters(self) -> int:
        if isinstance(self.content, str):
            return len(self.content)
        return sum(len(part.text) for part in self.content)

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.role == "assistant":  # a model may also have had nothing to say
            return self
        if not self.characters:
            raise ValueError("the message is empty")
        if self.characters > MAX_MESSAGE_CHARACTERS:
            raise ValueError(f"the message has more than {MAX_MESSAGE_CHARACTERS} characters")
        if len(self.content) > MAX_PARTS and not isinstance(self.content, str):
            raise ValueError(f"the message has more than {MAX_PARTS} parts")
        return self


def conversation_of(messages: Sequence[MessageBody]) -> Conversation:
    """ValueError where they are too long in all, or out of turn."""
    if sum(message.characters for message in messages if message.role != "assistant") > MAX_CHARACTERS:
        raise ValueError(f"the user's messages have more than {MAX_CHARACTERS} characters in all")
    plain = [message.model_dump() for message in messages]
    try:
        return Conversation.from_dict({"messages": [{**m, "content": m["content"] or ""} for m in plain]})
    except UserError as error:
        raise ValueError(str(error)) from None


class ChatBody(BaseModel):
    """POST /chat/completions; settings left out take the server's defaults. Unknown keys are ignored."""

    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_MESSAGES)]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    top_k: Annotated[int, Field(ge=0, le=200)] | None = None

    @model_validator(mode="after")
    def _makes_a_conversation(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        self.conversation()
        return self

    def conversation(self) -> Conversation:
        return conversation_of(self.messages)


# What pydantic says in its own terms.
PLAIN = {
    "model_type": "it should be an object",
    "string_unicode": "the text holds half of a character (a lone surrogate)",
}


def deepest(errors: list[Any]) -> Any:
    """The one of pydantic's errors that is told. In a union, the branch that got furthest is the one that was meant."""
    return max(errors, key=lambda error: len(error["loc"]))


def explain(errors: list[Any]) -> str:
    """The deepest of pydantic's errors as one sentence: where it is and what is wrong."""
    error = deepest(errors)
    steps = (str(step) for step in error["loc"] if step != "body")
    where = ".".join(step for step in steps if step.isdecimal() or step.isidentifier())
    message = PLAIN.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
