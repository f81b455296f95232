"""What is asked of the engine and what it gives back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from operator import index
from typing import Literal

from nanochat.console import UserError
from nanochat.conversation import Part

Finish = Literal["stop", "length"]
Kind = Literal["text", "python", "python_output", "special"]
Likely = Sequence[tuple[int, float]]  # ids and their log-probabilities, likeliest first

MOST_LOGPROBS = 20
WHOLE = ("max_tokens", "top_k", "seed", "n", "logprobs", "prompt_logprobs")
REAL = ("temperature", "top_p", "min_p", "repetition_penalty")


@dataclass(slots=True)
class Request:
    """Token ids to continue, and how. Equal requests get equal answers, whatever else runs beside them.

    logprobs are natural logarithms of the model's own probabilities, before every setting here. prompt_logprobs are,
    too, and no token is ruled out; with them max_tokens may be 0, and the prompt must fit the window as it is.
    """

    prompt: list[int]
    max_tokens: int = 256  # of every sample, tool output included
    temperature: float = 1.0  # 0 is greedy
    top_k: int | None = 50  # None or 0: the whole vocabulary
    seed: int = 0
    n: int = 1  # samples
    top_p: float = 1.0  # the fewest tokens that have this share of the probability; 1: all
    min_p: float = 0.0  # tokens at least this likely, compared with the likeliest; 0: all
    repetition_penalty: float = 1.0  # above 1, tokens of prompt and answer come less often again; 1: none
    stop: Sequence[str] = ()  # the text ends before the first of these strings
    logprobs: int | None = None  # 0: of each chosen token; k: and of the k likeliest; None: none
    prompt_logprobs: int | None = None  # the same of each token of the prompt

    def __post_init__(self) -> None:
        self._take_numbers()
        if not self.prompt:
            raise UserError("the prompt holds no tokens", "Start it with <|bos|>")
        if not self.max_tokens >= (1 if self.prompt_logprobs is None else 0):
            raise UserError(f"max_tokens is {self.max_tokens}", "Ask for at least one token")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}", "Use 0 (greedy) or a positive number")
        if self.top_k is not None and not self.top_k >= 0:
            raise UserError(f"top_k is {self.top_k}", "Use a positive number, or 0 for the whole vocabulary")
        if not self.n >= 1:
            raise UserError(f"n is {self.n}", "Ask for at least one sample")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}", "Use a number above 0 and up to 1 (everything)")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}", "Use a number from 0 (everything) to 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(
                f"repetition_penalty is {self.repetition_penalty}", "Use a positive number, 1 for no penalty"
            )
        if not isinstance(self.stop, list | tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise UserError(f"stop is {self.stop!r:.60}", "Give a list of strings that are not empty")
        for name in ("logprobs", "prompt_logprobs"):
            told = getattr(self, name)
            if told is not None and not 0 <= told <= MOST_LOGPROBS:
                raise UserError(f"{name} is {told}", f"Use a number from 0 to {MOST_LOGPROBS}")

    def _take_numbers(self) -> None:
        """As Python's own. A value of another type would fail in a step, and with it all that run beside."""
        try:
            self.prompt = list(map(index, self.prompt))
        except TypeError:
            raise UserError("the prompt is not a list of token ids", "Encode the text first") from None
        for name in WHOLE:
            value = getattr(self, name)
            if value is None and name in ("top_k", "logprobs", "prompt_logprobs"):
                continue
            if not isinstance(value, Integral):
                raise UserError(f"{name} is {value!r:.60}", "Use a whole number")
            setattr(self, name, int(value))
        for name in REAL:
            value = getattr(self, name)
            if not isinstance(value, Real):
                raise UserError(f"{name} is {value!r:.60}", "Use a number")
            try:
                setattr(self, name, float(value))
            except OverflowError:
                setattr(self, name, math.inf)


@dataclass(slots=True)
class Completion:
    """One finished sample.

    ids: all after the prompt, with tool output, without the stop token. Where a stop string ended the answer, they go
    to the token that completed it, but text and parts end before it.
    logprobs, top: of each id, where asked for; None and () for tool output, which was not chosen.
    tokens, end: where those are asked for, the same tokens as of a stream, and the stop token.
    prompt_logprobs, prompt_top: of each id of the prompt, where asked for; None and () for the first one.
    """

    ids: list[int]
    text: str  # the text parts alone
    parts: list[Part]
    finish: Finish
    request: int  # index in the list given to generate()
    sample: int
    stop: int | None = None  # the token that ended it; None: a stop string or the length did
    logprobs: list[float | None] | None = None
    top: list[Likely] | None = None
    tokens: list[Token] | None = None
    end: Token | None = None
    prompt_logprobs: list[float | None] | None = None
    prompt_top: list[Likely] | None = None


@dataclass(slots=True)
class Token:
    """One token of a stream. `text` is what it completes: "" for specials and for parts of a character."""

    id: int
    text: str
    kind: Kind
    sample: int
    logprob: float | None = None
    top: Likely = ()
