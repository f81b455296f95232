"""What the page may send, with its limits. Keys that are not here are ignored."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from nanochat.conversation import Conversation
from nanochat.serve.openai_bodies import LARGEST_SEED, MAX_IDS
from nanochat.serve.schema import (
    MAX_CHARACTERS,
    MAX_MESSAGE_CHARACTERS,
    MAX_MESSAGES,
    MessageBody,
    Text,
    conversation_of,
)

Name = Annotated[Text, Field(max_length=400)]  # of a model
Ids = Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(max_length=MAX_IDS, fail_fast=True)]


class SettingsBody(BaseModel):
    """Those left out take the server's defaults; of seeds, a new one."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=0, le=200)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None
    seed: Annotated[int, Field(ge=-LARGEST_SEED, le=LARGEST_SEED)] | None = None


class Asked(BaseModel):
    """What a model reads: a conversation whose last message is answered, or gone on with; or a text."""

    model: Name | None = None
    mode: Literal["chat", "text"] = "chat"
    system: Annotated[Text, Field(max_length=MAX_MESSAGE_CHARACTERS)] = ""
    messages: Annotated[list[MessageBody], Field(max_length=MAX_MESSAGES)] = []
    text: Annotated[Text, Field(max_length=MAX_CHARACTERS)] = ""

    @model_validator(mode="after")
    def _can_be_answered(self) -> Self:
        if self.mode == "chat":
            if not self.messages:
                raise ValueError("there is no message to answer")
            if any(message.role == "system" for message in self.messages):
                raise ValueError("a system message stands in `system`, not among the others")
            self.conversation()
        return self

    def conversation(self) -> Conversation:
        """Of mode chat."""
        system = [MessageBody(role="system", content=self.system)] if self.system else []
        return conversation_of([*system, *self.messages])


class AnswerBody(Asked):
    """POST /page/answers. begun: ids with which the answer begins already."""

    id: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    begun: Ids = []
    settings: SettingsBody = SettingsBody()


class CountBody(BaseModel):
    """POST /page/count."""

    model: Name | None = None
    text: Text
