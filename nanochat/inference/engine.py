"""The engine: requests in, completions or a stream of tokens out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from nanochat.console import UserError
from nanochat.inference.batch import Batch
from nanochat.inference.generation import Generation
from nanochat.inference.quantize import Quantize
from nanochat.inference.request import Completion, Request, Token
from nanochat.inference.toolcalls import Grammar
from nanochat.inference.window import fit_ids
from nanochat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from nanochat.model import GPT


class Engine:
    """Decodes up to `max_batch` samples at once. One thread at a time."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, max_batch: int = 32, quantize: Quantize = "") -> None:
        if quantize:
            raise UserError("matrices in eight bits cannot be used yet", "Leave --quantize out")
        if max_batch < 1:
            raise UserError(f"max_batch is {max_batch}", "Decode at least one sample at a time")
        if model.config.vocab_size < tokenizer.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {model.config.vocab_size}",
                "Use the tokenizer that the model was trained with",
            )
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch = max_batch
        self.grammar = Grammar(tokenizer)
        self.penalties = self.grammar.penalties(model.config.vocab_size, model.device)

    @property
    def window(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.model.config.seq_len

    def generate(self, requests: list[Request], on_token: Callable[[], object] = lambda: None) -> list[Completion]:
        """All samples of all requests, in the order of the requests, then of the samples. on_token: called for each."""
        generations = [
            generation for index, request in enumerate(requests) for generation in self._start(request, index)
        ]
        for _ in self._run(generations):
            on_token()
        return [generation.completion() for generation in generations]

    def stream(self, request: Request) -> Iterator[Token]:
        """Tokens as they come, without the stop token; closing the iterator ends the work."""
        return self._run(self._start(request, 0))

    def _start(self, request: Request, index: int) -> list[Generation]:
        outside = next((id for id in request.prompt if not 0 <= id < self.tokenizer.vocab_size), None)
        if outside is not None:
            raise UserError(f"the prompt holds the id {outside}", f"Ids go from 0 to {self.tokenizer.vocab_size - 1}")
        prompt = fit_ids(request.prompt, self.tokenizer.bos, self.window, request.max_tokens)
        request = replace(request, prompt=prompt)
        room = max(1, min(request.max_tokens, self.window - len(prompt)))
        return [Generation(request, index, sample, room, self.tokenizer, self.grammar) for sample in range(request.n)]

    def _run(self, generations: list[Generation]) -> Iterator[Token]:
        if not generations:
            return
        batch = Batch(self.model, self.penalties, generations, self.max_batch)
        while not batch.done:
            yield from batch.step()
