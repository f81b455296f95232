"""What people and models say to each other, as typed values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from nanochat.console import UserError

Role = Literal["system", "user", "assistant"]
PartType = Literal["text", "python", "python_output"]

SHAPE = 'a conversation is {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of a message: words, code for the tool, or what the tool answered."""

    type: PartType
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """learnt: whether training teaches it, if it is an answer; else the model only reads it."""

    role: Role
    parts: tuple[Part, ...]
    learnt: bool = True

    @property
    def text(self) -> str:
        """The words alone, without code and tool output."""
        return "".join(part.text for part in self.parts if part.type == "text")

    @classmethod
    def of(cls, role: Role, content: str | Sequence[Any]) -> Message:
        """A message from plain text or from parts; UserError says what does not fit."""
        if role not in get_args(Role):
            raise UserError(f"unknown role {role!r}", "use system, user or assistant")
        if isinstance(content, str):
            return cls(role, (Part("text", content),))
        if not isinstance(content, Sequence) or not content:
            raise UserError(f"the content of a {role} message is neither text nor a list of parts", SHAPE)
        parts = tuple(_part(part) for part in content)
        if role != "assistant" and any(part.type != "text" for part in parts):
            raise UserError(f"a {role} message holds a part that is not text", "only the assistant uses tools")
        return cls(role, parts)

    def to_dict(self) -> dict[str, Any]:
        plain = len(self.parts) == 1 and self.parts[0].type == "text"
        content = self.parts[0].text if plain else [{"type": part.type, "text": part.text} for part in self.parts]
        return {"role": self.role, "content": content, **({} if self.learnt else {"weight": 0})}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in turn: an optional system message, then user, assistant, user, ..."""

    messages: tuple[Message, ...]

    @classmethod
    def from_dict(cls, data: Any) -> Conversation:
        """Check and convert `{"messages": [...]}`; UserError names the first thing that is wrong."""
        messages = data.get("messages") if isinstance(data, Mapping) else None
        if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
            raise UserError("a conversation has no list of messages", SHAPE)
        return cls(tuple(_message(message, place) for place, message in enumerate(messages, 1))).checked()

    def checked(self) -> Conversation:
        """Itself, when the roles come in the right order."""
        turns = self.messages[1:] if self.messages and self.messages[0].role == "system" else self.messages
        if not turns:
            raise UserError("a conversation has no user message", SHAPE)
        first = len(self.messages) - len(turns) + 1
        for offset, message in enumerate(turns):
            expected = "assistant" if offset % 2 else "user"
            if message.role != expected:
                raise UserError(
                    f"message {first + offset} is from {message.role}, expected {expected}",
                    "user and assistant take turns, after at most one system message",
                )
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"messages": [message.to_dict() for message in self.messages]}

    def without_last(self) -> Conversation:
        """All but the last message: the question without its answer."""
        return Conversation(self.messages[:-1])


def _part(part: Any) -> Part:
    if isinstance(part, Part):
        return part
    if not isinstance(part, Mapping) or part.get("type") not in get_args(PartType):
        raise UserError(f"unknown part {str(part)[:80]!r}", "a part has the type text, python or python_output")
    if not isinstance(part.get("text"), str):
        raise UserError(f"a {part['type']} part has no text", 'write {"type": "text", "text": "..."}')
    return Part(part["type"], part["text"])


def _message(message: Any, place: int) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise UserError(f"message {place} lacks a role or a content", SHAPE)
    try:
        found = Message.of(message["role"], message["content"])
        only_read = found.role == "assistant" and message.get("weight") == 0  # OpenAI's way to say it
        return replace(found, learnt=False) if only_read else found
    except UserError as error:
        raise UserError(f"message {place}: {error.problem}", error.remedy) from None
