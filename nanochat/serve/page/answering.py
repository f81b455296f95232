"""/page/answers: ask for an answer, take it up again where a connection was lost, and stop it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import secrets
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from starlette.types import Receive, Scope, Send

from nanochat import inference
from nanochat.console import UserError
from nanochat.inference import Token
from nanochat.serve.answers import Busy, Draining, OutOfTime, Refused
from nanochat.serve.info import Defaults
from nanochat.serve.openai_asking import LEAST_TOP_P
from nanochat.serve.openai_route import aside
from nanochat.serve.page.bodies import AnswerBody, SettingsBody
from nanochat.serve.page.checkpoints import Entry
from nanochat.serve.page.kept import Kept, KeptAnswer, Reading
from nanochat.serve.page.models import ENDING, Loaded, Models
from nanochat.serve.page.prompts import Prompt, prompt_of
from nanochat.serve.page.route import PageRoute
from nanochat.serve.seed_api import BUSY
from nanochat.serve.streaming import EventStream, client_of
from nanochat.tokenizer import StreamDecoder, Tokenizer

A_MESSAGE = 200  # characters that take as long as one more message
FAILED = "the answer failed, see the server's log"
TOO_LONG = "the answer took too long and was stopped"
logger = logging.getLogger(__name__)


def routes(models: Models, kept: Kept, defaults: Defaults) -> APIRouter:
    router = APIRouter(prefix="/page/answers", include_in_schema=False, route_class=PageRoute)

    @router.post("")
    async def ask(body: AnswerBody, http: Request) -> Response:
        entry = await models.find(body.model)
        try:
            answer = kept.add(body.id)
        except Refused as refused:
            raise _told(refused) from None
        answer.task = asyncio.create_task(_make(answer, models, entry, body, defaults, client_of(http)))
        reading = answer.read(0)
        try:
            await answer.first_change()
        except BaseException:  # who asked has gone: nothing is swallowed
            reading.leave()
            raise
        if answer.refused is not None:
            reading.leave()
            answer.forget()
            raise _told(answer.refused)
        return AnswerStream(reading)

    @router.get("/{id}")
    async def read_on(id: str, after: Annotated[int, Query(ge=0)] = 0) -> Response:
        return AnswerStream(kept.get(id).read(after))

    @router.delete("/{id}", status_code=204)
    async def stop(id: str) -> None:
        kept.get(id).stop()

    return router


class AnswerStream(EventStream):
    """A reader's events. One whose connection the server ends, since it ends itself, is told."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading, reading.events)
        self._kept = reading.answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            self._kept.stop("failed", ENDING)
            with contextlib.suppress(Exception):
                await send({"type": "http.response.body", "body": self._kept.end.encode(), "more_body": False})
            raise


async def _make(
    answer: KeptAnswer, models: Models, entry: Entry, body: AnswerBody, defaults: Defaults, client: str
) -> None:
    """Make an answer, from the loading of its model to its end, and tell it what comes."""
    try:
        async with models.use(entry, lambda: answer.say("loading")) as loaded:
            answers, engine = loaded.answers, loaded.engine
            answers.check(client)  # first, since making a prompt takes time
            most = body.settings.max_tokens or defaults.max_tokens
            size = len(body.text) + len(body.begun) + sum(one.characters + A_MESSAGE for one in body.messages)
            prompt = await aside(size, partial(prompt_of, engine, body, most))
            request = _request(prompt, body.settings, defaults, most, engine.tokenizer.bos)
            start = _start(loaded, body, prompt, request.seed)
            del body  # it may be large
            if prompt.full:
                answer.start(start)
                answer.finish("window", prompt.full)
                return
            waits = all(replica.full for replica in answers.replicas)
            made = answers.begin(request, client)
            try:
                if waits:
                    answer.say("waiting")
                else:
                    answer.start(start)
                texts, finish = Texts(engine.tokenizer, prompt.begun), "stop"
                async for piece in made:
                    if waits:
                        waits = False
                        answer.start(start)
                    answer.add([texts.told(token) for token in piece.tokens])
                    if piece.finished and piece.finished[0].finish == "length":
                        finish = "length" if len(answer.tokens) >= most else "window"
                answer.finish(finish)
            finally:
                made.leave()
    except asyncio.CancelledError:
        answer.stop()
    except (Refused, HTTPException) as error:
        answer.refused = None if answer.told else error
        answer.finish("failed", str(_told(error).detail))
    except OutOfTime:
        answer.finish("failed", TOO_LONG)
    except UserError as error:  # such as weights that are no numbers
        answer.finish("failed", str(error))
    except Exception:  # told to the one who asked and in the log; nobody awaits this task
        logger.exception("an answer failed")
        answer.finish("failed", FAILED)


def _request(
    prompt: Prompt, settings: SettingsBody, defaults: Defaults, max_tokens: int, bos: int
) -> inference.Request:
    return inference.Request(
        prompt=prompt.ids,
        max_tokens=max_tokens,
        temperature=defaults.temperature if settings.temperature is None else settings.temperature,
        top_k=defaults.top_k if settings.top_k is None else settings.top_k,
        top_p=1.0 if settings.top_p is None else max(settings.top_p, LEAST_TOP_P),
        seed=secrets.randbits(31) if settings.seed is None else settings.seed,
        logprobs=0,
    )


def _start(loaded: Loaded, body: AnswerBody, prompt: Prompt, seed: int) -> dict[str, Any]:
    return {
        "model": loaded.entry.id,
        "chat": body.mode == "chat",
        "prompt_tokens": len(prompt.ids),
        "window": loaded.engine.window,
        "left_out": prompt.left_out,
        "cut": prompt.cut,
        "begun": len(prompt.begun),
        "seed": seed,
    }


class Texts:
    """Tokens of an answer as JSON. Where `begun` ends within a character, the first ones complete it."""

    def __init__(self, tokenizer: Tokenizer, begun: list[int]) -> None:
        decoder = StreamDecoder(tokenizer)
        decoder.feed(begun)
        self._decoder = decoder if decoder.waiting else None

    def told(self, token: Token) -> str:
        text = token.text
        if self._decoder is not None:
            text = "" if token.kind == "special" else self._decoder.feed(token.id)
            if token.kind == "special" or not self._decoder.waiting:
                self._decoder = None
        p = None if token.logprob is None else float(f"{min(1.0, math.exp(token.logprob)):.4g}")
        return json.dumps([token.id, text, token.kind, p], ensure_ascii=False)


def _told(error: Exception) -> HTTPException:
    if isinstance(error, HTTPException):
        return error
    retry = {"Retry-After": str(error.retry_after)} if isinstance(error, Refused) else None
    if isinstance(error, Busy):
        return HTTPException(429, BUSY["detail"], retry)
    assert isinstance(error, Draining)
    return HTTPException(503, ENDING, retry)
