"""POST /v1/completions: text goes on from a prompt, or a prompt's own probabilities are told."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from nanochat import inference
from nanochat.inference import Completion
from nanochat.serve.answers import Answer, Answers, Piece
from nanochat.serve.info import Defaults, ModelInfo
from nanochat.serve.openai_asking import check_prompts, check_told, settings, text_prompts, told
from nanochat.serve.openai_bodies import MAX_ROWS, CompletionRequest
from nanochat.serve.openai_chat import by_sample, error_event, usage_of
from nanochat.serve.openai_errors import ApiError
from nanochat.serve.openai_logprobs import Telling, add, joined, prompt_logprobs
from nanochat.serve.openai_models import model_id
from nanochat.serve.openai_replies import TextChoice, TextLogprobs, TextReply
from nanochat.serve.openai_route import A_LOGPROB, DONE, ERRORS, OpenAIRoute, aside, event, reply
from nanochat.serve.shown import shown
from nanochat.serve.streaming import EventStream, client_of, whole
from nanochat.tokenizer import Tokenizer

MAX_TOKENS = 16  # of an answer, where the request does not say; OpenAI's number
OK: dict[str, Any] = {"model": TextReply, "content": {"text/event-stream": {}}, "description": "The text"}


def routes(answers: Answers, info: ModelInfo, defaults: Defaults) -> APIRouter:
    router = APIRouter(route_class=OpenAIRoute, tags=["openai"])
    engine = answers.engine
    model = model_id(info)

    @router.post("/v1/completions", responses={200: OK, **ERRORS})
    async def completions(body: CompletionRequest, http: Request) -> Response:
        """Go on from each prompt. <|bos|> is put before texts, not before token ids."""
        _check(body)
        answers.check(client_of(http))  # first, since making prompts takes time
        requests = await aside(_size(body), lambda: _requests(body))
        count = check_told(requests, engine.window)
        answer = answers.begin(requests, client_of(http))
        about: dict[str, Any] = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        echo = Echo(engine.tokenizer, isinstance(body.prompt[0], str)) if body.echo else None
        if body.stream:
            return EventStream(answer, _events(answer, requests, about, echo, body.include_usage))
        found = await whole(answer, http)

        def made() -> Response:
            choices = [
                _choice(request, index, completion, echo)
                for index, (request, samples) in enumerate(zip(requests, found, strict=True))
                for completion in samples
            ]
            usage = usage_of(requests, [completion for samples in found for completion in samples])
            return reply(TextReply(**about, object="text_completion", choices=choices, usage=usage))

        return await aside(A_LOGPROB * count, made)

    def _requests(body: CompletionRequest) -> list[inference.Request]:
        prompts: Any = body.prompt
        if isinstance(prompts[0], str):
            prompts = text_prompts(engine.tokenizer, prompts, engine.window)
        check_prompts(prompts, engine)
        max_tokens = MAX_TOKENS if body.max_tokens is None else body.max_tokens
        chosen = settings(body, defaults)
        likely = body.logprobs
        if not body.echo:
            of_prompt = None
        elif likely is None and max_tokens == 0:
            of_prompt = 0  # the engine generates nothing only for these
        else:
            of_prompt = likely
        return [
            inference.Request(
                prompt=prompt, max_tokens=max_tokens, logprobs=likely, prompt_logprobs=of_prompt, **chosen
            )
            for prompt in prompts
        ]

    def _choice(request: inference.Request, index: int, completion: Completion, echo: Echo | None) -> TextChoice:
        text = shown(completion.parts)
        logprobs = None
        prompt = echo.text(request) if echo else ""
        if completion.tokens is not None:
            telling = Telling(engine.tokenizer, len(prompt))
            logprobs = telling.completion(completion.tokens)[1]
            if echo:
                logprobs = echo.with_prompt(request, completion, logprobs, len(prompt) + len(text))
        return TextChoice(
            index=index * request.n + completion.sample,
            text=prompt + text,
            logprobs=logprobs,
            finish_reason=completion.finish,
        )

    async def _events(
        answer: Answer,
        requests: list[inference.Request],
        about: dict[str, Any],
        echo: Echo | None,
        include_usage: bool,
    ) -> AsyncIterator[str]:
        completions: list[Completion] = []
        more: dict[str, Any] = {"usage": None} if include_usage else {}
        at_once = echo is not None and requests[0].logprobs is not None  # which are known when all is computed
        prompts = [echo.text(request) if echo else "" for request in requests]
        tellings = [
            [Telling(engine.tokenizer, len(prompt)) for _ in range(request.n)]
            for request, prompt in zip(requests, prompts, strict=True)
        ]

        def chunk(choice: TextChoice) -> str:
            return event(TextReply(**about, object="text_completion", choices=[choice], **more))

        def part(request: int, sample: int, text: str, logprobs: TextLogprobs | None = None, finish: Any = None) -> str:
            index = request * requests[request].n + sample
            return chunk(TextChoice(index=index, text=text, logprobs=logprobs, finish_reason=finish))

        def whole_choice(piece: Piece, completion: Completion) -> Callable[[], str]:
            return lambda: chunk(_choice(requests[piece.request], piece.request, completion, echo))

        try:
            if echo and not at_once:
                everyone = [(place, sample) for place, request in enumerate(requests) for sample in range(request.n)]
                yield "".join(part(place, sample, prompts[place]) for place, sample in everyone)
            async for piece in answer:
                request = requests[piece.request]
                events = []
                for sample, tokens in [] if at_once else by_sample(piece.tokens):
                    telling, logprobs = tellings[piece.request][sample], None
                    if request.logprobs is None:
                        text = telling.text(tokens)
                    else:
                        text, logprobs = telling.completion(tokens)
                    if text or (logprobs and logprobs.tokens):
                        events.append(part(piece.request, sample, text, logprobs))
                for completion in piece.finished:
                    if at_once:
                        size = A_LOGPROB * told(request, engine.window)
                        events.append(await aside(size, whole_choice(piece, completion)))
                    else:
                        end = tellings[piece.request][completion.sample].end()
                        events.append(part(piece.request, completion.sample, end, None, completion.finish))
                completions += piece.finished
                if events:
                    yield "".join(events)
            if include_usage:
                yield event(
                    TextReply(**about, object="text_completion", choices=[], usage=usage_of(requests, completions))
                )
        except Exception as error:
            yield error_event(error)
        yield DONE

    return router


class Echo:
    """A prompt before its completion. The <|bos|> that was put before a text is not shown."""

    def __init__(self, tokenizer: Tokenizer, of_texts: bool) -> None:
        self._tokenizer = tokenizer
        self._first = int(of_texts)  # token that is shown

    def text(self, request: inference.Request) -> str:
        return self._tokenizer.decode(request.prompt[self._first :])

    def with_prompt(
        self, request: inference.Request, completion: Completion, logprobs: TextLogprobs, end: int
    ) -> TextLogprobs:
        """The prompt's before the completion's, and behind both the token that ended it, which has no text: one more
        than the prompt's tokens is what programs look for that ask for one token and want the prompt's."""
        assert completion.prompt_logprobs is not None and completion.prompt_top is not None
        if (last := completion.end) is not None:
            add(logprobs, self._tokenizer, "", end, last.id, last.logprob, last.top)
        prompt = prompt_logprobs(
            self._tokenizer,
            request.prompt[self._first :],
            completion.prompt_logprobs[self._first :],
            completion.prompt_top[self._first :],
        )
        return joined(prompt, logprobs)


def _check(body: CompletionRequest) -> None:
    n = body.n or 1
    if len(body.prompt) * n > MAX_ROWS:
        raise ApiError(f"{len(body.prompt)} prompts with n={n} are more than {MAX_ROWS} completions", "n")
    if body.best_of not in (None, 1, n):
        raise ApiError("best_of differs from n: this server chooses none", "best_of")
    if body.max_tokens == 0 and not body.echo:
        raise ApiError("max_tokens is 0, which makes sense with echo only", "max_tokens")


def _size(body: CompletionRequest) -> int:
    prompts: Sequence[Sequence[Any]] = body.prompt
    return sum(map(len, prompts))
