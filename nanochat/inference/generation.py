"""One answer in the making: its tokens, its parts, and the tool calls inside it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from nanochat.conversation import Part, PartType
from nanochat.inference.request import Completion, Finish, Kind, Request, Token
from nanochat.inference.sampling import generator
from nanochat.inference.toolcalls import Grammar
from nanochat.tokenizer import StreamDecoder, Tokenizer
from nanochat.tools import calculate


@dataclass(slots=True)
class _OpenPart:
    type: PartType
    text: str = ""


class Generation:
    """A sample of a request. `room` is how many tokens it may get; `finish` is set when it is complete."""

    def __init__(
        self, request: Request, index: int, sample: int, room: int, tokenizer: Tokenizer, grammar: Grammar
    ) -> None:
        self.request = request
        self.index = index
        self.sample = sample
        self.room = room
        self.ids: list[int] = []
        self.finish: Finish | None = None
        self.stop: int | None = None
        self.forced: deque[int] = deque()  # tool output, to be added before sampling goes on
        self.random = generator(request.seed, sample)
        self._tokenizer = tokenizer
        self._grammar = grammar
        self._decoder = StreamDecoder(tokenizer)
        self._parts = [_OpenPart("text")]

    @property
    def kind(self) -> PartType:
        """The kind of part that the next ordinary token belongs to."""
        return self._parts[-1].type

    def push(self, id: int) -> Token | None:
        """Take one token in, sampled or forced; None when it is the stop token."""
        if id in self._grammar.stops:
            self.finish, self.stop = "stop", id
            return None
        if self.forced:
            self.forced.popleft()
        self.ids.append(id)
        if len(self.ids) >= self.room:
            self.finish = "length"
        opens = self._grammar.opens.get(id)
        if opens is None:
            kind: Kind = self.kind
            text = self._decoder.feed(id)
            self._parts[-1].text += text
            return Token(id, text, kind, self.sample)
        self._decoder.finish()  # bytes of a character that was never completed are dropped
        if id == self._grammar.python_end:
            self._call_tool(self._parts[-1].text)
        self._parts.append(_OpenPart(opens))
        return Token(id, "", "special", self.sample)

    def _call_tool(self, code: str) -> None:
        result = calculate(code)
        if result is not None:
            grammar = self._grammar
            self.forced.extend([grammar.output_start, *self._tokenizer.encode(result), grammar.output_end])

    def completion(self) -> Completion:
        parts = [Part(part.type, part.text) for part in self._parts if part.text]
        text = "".join(part.text for part in parts if part.type == "text")
        return Completion(self.ids, text, parts, self.finish or "length", self.index, self.sample, self.stop)
