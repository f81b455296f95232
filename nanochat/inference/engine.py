"""The engine: requests in, completions or streams of tokens out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from nanochat.console import UserError
from nanochat.inference.batch import Batch
from nanochat.inference.choosing import runner_for
from nanochat.inference.generation import Generation
from nanochat.inference.quantize import Quantize
from nanochat.inference.request import Completion, Request, Token
from nanochat.inference.scores import PromptScores
from nanochat.inference.toolcalls import Grammar
from nanochat.inference.window import fit_ids
from nanochat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from nanochat.inference.runner import Runner
    from nanochat.model import GPT


class Engine:
    """Decodes up to `max_batch` samples side by side, of however many requests and streams. One thread at a time.

    Weights that have changed since the last request are noticed, but for those written through `.data`, of which torch
    keeps no count. runner: instead of the fastest for this model.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        max_batch: int = 32,
        quantize: Quantize = "",
        runner: Runner | None = None,
    ) -> None:
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
        self.quantize = quantize
        self.grammar = Grammar(tokenizer)
        self.penalties = self.grammar.penalties(model.config.vocab_size, model.device)
        self.runner = runner or runner_for(model, quantize)
        self._batch = Batch(self.runner, max_batch, self.window)
        self._weights = self._state_of_weights()

    @property
    def window(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.model.config.seq_len

    def generate(self, requests: list[Request], on_token: Callable[[], object] = lambda: None) -> list[Completion]:
        """All samples of all requests, in the order of the requests, then of the samples. on_token: called for each."""
        ready: deque[Token] = deque()
        generations = [
            generation for index, request in enumerate(requests) for generation in self._start(request, index, ready)
        ]
        try:
            self._add(generations)
            for generation in generations:
                while generation.open:
                    self.step()
                    while ready:
                        ready.popleft()
                        on_token()
                if generation.error is not None:
                    raise generation.error
        finally:
            for generation in generations:
                self._batch.cancel(generation)
        return [generation.completion() for generation in generations]

    def stream(self, request: Request) -> Stream:
        """Tokens as they come, without the stop token. The work begins with the next step, whoever takes it."""
        ready: deque[Token] = deque()
        generations = self._start(request, 0, ready)
        stream = Stream(self, generations, ready)
        self._add(generations)
        return stream

    def step(self) -> None:
        """One token more for all that is asked for, or less than one while a prompt is long; nothing when idle."""
        self._batch.step()

    def _start(self, request: Request, index: int, ready: deque[Token]) -> list[Generation]:
        outside = next((id for id in request.prompt if not 0 <= id < self.tokenizer.vocab_size), None)
        if outside is not None:
            raise UserError(f"the prompt holds the id {outside}", f"Ids go from 0 to {self.tokenizer.vocab_size - 1}")
        prompt, scores = request.prompt, None
        if request.prompt_logprobs is None:
            prompt = fit_ids(prompt, self.tokenizer.bos, self.window, request.max_tokens)
            request = replace(request, prompt=prompt)
        else:
            scores = PromptScores(prompt, request.prompt_logprobs, self.tokenizer.vocab_size)
            most = self.window - min(request.max_tokens, 1)
            if len(prompt) > most:
                raise UserError(f"the prompt has {len(prompt)} tokens", f"Score {most} tokens of it at most")
        room = min(request.max_tokens, max(1, self.window - len(prompt)))
        return [
            Generation(request, index, sample, room, self.tokenizer, self.grammar, self.penalties, ready, scores)
            for sample in range(request.n)
        ]

    def _add(self, generations: list[Generation]) -> None:
        weights = self._state_of_weights()
        if weights != self._weights:
            self._batch.forget()
            self.runner.refresh()
            self._weights = weights  # last: weights that could not be taken are tried again
        for generation in generations:
            self._batch.add(generation)

    def _state_of_weights(self) -> list[tuple[int, int]]:
        """Changes when a weight does. (Writing to an inference tensor leaves no trace.)"""
        return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.model.parameters()]


class Stream(Iterator[Token]):
    """The tokens of a request. Several may be read in turns: each waits for its next token, and keeps the others'.

    Closing it, or dropping it, ends the work.
    """

    def __init__(self, engine: Engine, generations: list[Generation], ready: deque[Token]) -> None:
        self._engine = engine
        self._generations = generations
        self._unfinished = generations
        self._ready = ready

    def __next__(self) -> Token:
        try:
            while not self._ready:
                if self.error is not None:
                    raise self.error
                if self.done:
                    raise StopIteration
                self._engine.step()
            return self._ready.popleft()
        except BaseException:
            self.close()
            raise

    def take(self) -> list[Token]:
        """The tokens that have come. Takes no step."""
        if not self._ready:
            return []
        taken = list(self._ready)
        self._ready.clear()
        return taken

    def finished(self) -> list[Completion]:
        """The samples that have become complete since this was last asked, by their numbers. Takes no step."""
        finished = [generation for generation in self._unfinished if generation.finish and generation.complete]
        if finished:
            self._unfinished = [generation for generation in self._unfinished if generation not in finished]
        return [generation.completion() for generation in finished]

    @property
    def done(self) -> bool:
        """Whether no more tokens are computed; some may not have been read."""
        return True not in [generation.open for generation in self._generations]  # a list is faster than any()

    @property
    def error(self) -> BaseException | None:
        """Why the answer will never be complete."""
        return next((generation.error for generation in self._generations if generation.error), None)

    def close(self) -> None:
        """No more tokens, from the next step on."""
        self._ready.clear()
        for generation in self._generations:
            generation.cancelled = True
        self._generations = []

    def __del__(self) -> None:
        self.close()
