"""What is asked of the engine and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nanochat.console import UserError
from nanochat.conversation import Part

Finish = Literal["stop", "length"]
Kind = Literal["text", "python", "python_output", "special"]


@dataclass(slots=True)
class Request:
    """Token ids to continue, and how. Equal requests get equal answers, whatever else runs beside them."""

    prompt: list[int]
    max_tokens: int = 256  # of every sample, tool output included
    temperature: float = 1.0  # 0 is greedy
    top_k: int | None = 50  # None or 0: the whole vocabulary
    seed: int = 0
    n: int = 1  # samples

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UserError("the prompt holds no tokens", "Start it with <|bos|>")
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}", "Ask for at least one token")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}", "Use 0 (greedy) or a positive number")
        if self.top_k is not None and self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}", "Use a positive number, or 0 for the whole vocabulary")
        if self.n < 1:
            raise UserError(f"n is {self.n}", "Ask for at least one sample")


@dataclass(slots=True)
class Completion:
    """One finished sample. `ids` is all after the prompt, with tool output, without the stop token."""

    ids: list[int]
    text: str  # the text parts alone
    parts: list[Part]
    finish: Finish
    request: int  # index in the list given to generate()
    sample: int
    stop: int | None = None  # the token that ended it; None: the length did


@dataclass(slots=True)
class Token:
    """One token of a stream. `text` is what it completes: "" for specials and for parts of a character."""

    id: int
    text: str
    kind: Kind
    sample: int
