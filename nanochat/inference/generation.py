"""One answer in the making: its tokens, its parts, and the tool calls inside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from nanochat.conversation import Part, PartType
from nanochat.inference.request import Completion, Finish, Likely, Request, Token
from nanochat.inference.sampling import Draw, generator
from nanochat.inference.scores import PromptScores
from nanochat.inference.stops import StopStrings
from nanochat.inference.toolcalls import Grammar
from nanochat.tokenizer import StreamDecoder, Tokenizer
from nanochat.tools import calculate

if TYPE_CHECKING:
    from torch import Tensor

RANDOM_NUMBERS = 64  # drawn at once: one by one they cost as much as the rest of a token


class Generation:
    """A sample of a request. `room`: how many tokens it may get.

    sequence: prompt and answer. ready: gets the tokens that may be shown; samples of a request share one. scores: those
    of the prompt, which the first sample fills, until it has. finish: set when the answer is complete; error: when it
    never will be; cancelled: when nobody wants it any more.
    """

    def __init__(
        self,
        request: Request,
        index: int,
        sample: int,
        room: int,
        tokenizer: Tokenizer,
        grammar: Grammar,
        penalties: Mapping[PartType, Tensor],
        ready: deque[Token] | None = None,
        scores: PromptScores | None = None,
    ) -> None:
        self.request = request
        self.index = index
        self.sample = sample
        self.prompt_length = len(request.prompt)
        self.end = self.prompt_length + room  # of the sequence
        self.sequence = list(request.prompt)
        self.ready: deque[Token] = deque() if ready is None else ready
        self.kind: PartType = "text"  # of the part that the next ordinary token belongs to
        self.finish: Finish | None = None
        self.stop: int | None = None
        self._end: Token | None = None
        self.error: BaseException | None = None
        self.cancelled = False
        self._scores = scores
        self.scores = scores if scores and not scores.whole and sample == 0 else None
        if not room and not self.scores:
            self.finish = "length"
        self._tokenizer = tokenizer
        self._grammar = grammar
        self._penalties = penalties
        self._decoder = StreamDecoder(tokenizer)
        self._parts: list[tuple[PartType, list[str]]] = [("text", [])]
        self._pieces = self._parts[0][1]  # the newest part's text
        self._stops = StopStrings(request.stop) if request.stop else None
        self._held: deque[Token] = deque()  # their text may be the beginning of a stop string
        self._held_characters = 0
        self._tokens: list[Token] = []  # all, where log-probabilities are asked for
        self._random = generator(request.seed, sample) if request.temperature > 0 else None
        self._numbers: list[float] = []  # the next random numbers, the last one first
        self._draw = Draw(
            request.temperature,
            min(request.top_k or 0, len(penalties["text"])),
            request.top_p,
            request.min_p,
            request.repetition_penalty,
            self.sequence,
            penalties["text"],
            0.0,
            request.logprobs,
        )

    @property
    def ids(self) -> list[int]:
        return self.sequence[self.prompt_length :]

    @property
    def open(self) -> bool:
        """Whether more tokens are to come."""
        return self.finish is None and self.error is None and not self.cancelled

    @property
    def complete(self) -> bool:
        """Whether all of its completion is there."""
        return self.finish is not None and (self._scores is None or self._scores.whole)

    def score(self, start: int, logits: Tensor) -> None:
        """Take in logits (n, V) after the prompt's tokens from `start` on. UserError where one is no number."""
        assert self.scores
        self.scores.add(start, logits)
        if self.scores.whole:
            self.scores = None
            if self.end == self.prompt_length:
                self.finish = "length"

    def draw(self) -> Draw:
        """How the next token is to be chosen. Takes a random number."""
        if self._random is not None:
            if not self._numbers:
                self._numbers = torch.rand(RANDOM_NUMBERS, generator=self._random).tolist()[::-1]
            self._draw.uniform = self._numbers.pop()
        return self._draw

    def push(self, id: int, logprob: float | None = None, top: Likely = ()) -> None:
        """Take in the chosen token, and the tool's output that follows it."""
        if id in self._grammar.stops:
            self.finish, self.stop = "stop", id
            self._end = Token(id, "", "special", self.sample, logprob, top)
        elif id in self._grammar.opens:
            self._special(id, logprob, top)
        else:
            self._ordinary(id, logprob, top)
        if self.finish is not None and self._held:
            self._release(0)

    def _ordinary(self, id: int, logprob: float | None = None, top: Likely = ()) -> None:
        text = self._decoder.feed(id)
        token = Token(id, text, self.kind, self.sample, logprob, top)
        self._append(token)
        self._pieces.append(text)
        if self._stops is None or self.kind != "text":
            self.ready.append(token)
            return
        self._held.append(token)
        self._held_characters += len(text)
        found = self._stops.feed(text)
        if found is None:
            self._release(self._stops.held)
        else:
            place, length = found
            self._cut(len(text) - place + length)
            self.finish = "stop"

    def _special(self, id: int, logprob: float | None = None, top: Likely = ()) -> None:
        """A token that begins the next part."""
        self._decoder.finish()  # bytes of a character that was never completed are dropped
        if self._stops is not None:
            self._release(0)
            self._stops.reset()
        token = Token(id, "", "special", self.sample, logprob, top)
        self._append(token)
        self.ready.append(token)
        code = "".join(self._pieces) if id == self._grammar.python_end else None
        self.kind = self._grammar.opens[id]
        self._pieces = []
        self._parts.append((self.kind, self._pieces))
        self._draw.penalties = self._penalties[self.kind]
        if code is not None and self.finish is None:
            self._add_output(code)

    def _add_output(self, code: str) -> None:
        """What the tool says, as far as there is room."""
        result = calculate(code)
        if result is not None:
            self._special(self._grammar.output_start)
            for id in self._tokenizer.encode(result):
                if self.finish is None:
                    self._ordinary(id)
            if self.finish is None:
                self._special(self._grammar.output_end)

    def _append(self, token: Token) -> None:
        self.sequence.append(token.id)
        if len(self.sequence) >= self.end:
            self.finish = "length"
        if self.request.logprobs is not None:
            self._tokens.append(token)

    def _release(self, keep: int) -> None:
        """Let go of held tokens until the others have `keep` characters or a few more."""
        while self._held and self._held_characters - len(self._held[0].text) >= keep:
            token = self._held.popleft()
            self._held_characters -= len(token.text)
            self.ready.append(token)

    def _cut(self, characters: int) -> None:
        """Take that many away from the end of the newest part; the tokens that they were in are all held."""
        text = "".join(self._pieces)
        self._pieces[:] = [text[: len(text) - characters]]
        for token in reversed(self._held):
            taken = min(characters, len(token.text))
            token.text = token.text[: len(token.text) - taken]
            characters -= taken

    def completion(self) -> Completion:
        parts = [Part(kind, text) for kind, pieces in self._parts if (text := "".join(pieces))]
        text = "".join(part.text for part in parts if part.type == "text")
        done = Completion(self.ids, text, parts, self.finish or "length", self.index, self.sample, self.stop)
        if self.request.logprobs is not None:
            done.logprobs = [token.logprob for token in self._tokens]
            done.top = [token.top for token in self._tokens]
            done.tokens, done.end = self._tokens, self._end
        if self._scores:
            done.prompt_logprobs, done.prompt_top = list(self._scores.logprobs), list(self._scores.top)
        return done
