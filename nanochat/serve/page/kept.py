"""Answers as they come: each can be read by several readers, from any place, and outlives a reader that was lost."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

from fastapi import HTTPException

from nanochat.serve.answers import Busy
from nanochat.serve.streaming import event_of

SECONDS = 60.0  # that an answer is kept which nobody reads
MOST_OPEN = 1024  # answers that are being made, or wait
MOST_ENDED = 256  # answers that are complete
MOST_TOKENS = 1 << 18  # of all that are complete
AWAKE_SECONDS = 15.0  # between two comments in a stream in which nothing comes: proxies end what is silent
RETRY_SECONDS = 5
AWAKE = ": nothing yet\n\n"


class KeptAnswer:
    """Belongs to the event loop's thread. tokens: as JSON, those that have come. end: the last event, once it is over.

    refused: why it was not taken in, if nothing was told of it before. task: makes it.
    """

    def __init__(self, id: str, kept: Kept) -> None:
        self.id = id
        self.tokens: list[str] = []
        self.end = ""
        self.refused: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self.readers = 0
        self._kept = kept
        self._state = ""
        self._start = ""
        self._first: float | None = None
        self._loop = asyncio.get_running_loop()
        self._accepted = self._loop.time()
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._wait()

    # ---- who makes it ------------------------------------------------------------------------------------------

    @property
    def told(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._state or self._start or self.end)

    def say(self, state: str) -> None:
        """What it waits for."""
        self._state = event_of({"state": state})
        self._change()

    def start(self, facts: dict[str, Any]) -> None:
        self._start = event_of({"start": {"id": self.id, **facts}})
        self._change()

    def add(self, tokens: list[str]) -> None:
        if tokens and self._first is None:
            self._first = self._loop.time() - self._accepted
        self.tokens += tokens
        self._change()

    def finish(self, finish: str, error: str | None = None) -> None:
        """The first of these counts."""
        if self.end:
            return
        facts = {"finish": finish, "error": error, "tokens": len(self.tokens)}
        times = {"seconds": self._loop.time() - self._accepted, "first": self._first}
        self.end = event_of({"end": {**facts, **{k: s if s is None else round(s, 4) for k, s in times.items()}}})
        self._change()
        self._wait()
        self._kept.tidy()

    def stop(self, finish: str = "stopped", error: str | None = None) -> None:
        """It ends here, if it has not, and the work on it with the engine's next step."""
        if not self.end:
            self.finish(finish, error)
            if self.task is not None:
                self.task.cancel()

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # ---- who reads it ------------------------------------------------------------------------------------------

    async def first_change(self) -> None:
        """Returns when there is something to read."""
        while not self.told:
            await self._changed.wait()

    def read(self, after: int) -> Reading:
        """From behind the first `after` tokens to the end."""
        return Reading(self, after)

    async def events(self, after: int) -> AsyncIterator[str]:
        state, started, place = "", False, after
        while True:
            changed, come = self._changed, []
            if not self._start and not self.end and self._state != state:
                come.append(state := self._state)
            if self._start and not started:
                started = True
                come.append(self._start)
            if place < len(self.tokens):
                come.append(f'data: {{"tokens": [{", ".join(self.tokens[place:])}]}}\n\n')
                place = len(self.tokens)
            if self.end:
                come.append(self.end)
            if come:
                yield "".join(come)  # sent in one go
            if self.end and come and come[-1] is self.end:
                return
            try:
                async with asyncio.timeout(AWAKE_SECONDS):  # Python 3.11's wait_for can miss that it is cancelled
                    await changed.wait()
            except TimeoutError:
                yield AWAKE

    def enter(self) -> None:
        self.readers += 1
        if self._timer is not None:
            self._timer.cancel()

    def leave(self) -> None:
        self.readers -= 1
        self._wait()

    def _wait(self) -> None:
        """Begin to count the time in which nobody reads."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.readers:
            self._timer = self._loop.call_later(self._kept.seconds, self.forget)

    def forget(self) -> None:
        self._kept.remove(self)
        self.stop()
        if self._timer is not None:
            self._timer.cancel()


class Reading:
    """One reader's way through an answer: events, and then `leave`."""

    def __init__(self, answer: KeptAnswer, after: int) -> None:
        self.answer = answer
        self.events = answer.events(after)
        self._reads = True
        answer.enter()

    def leave(self) -> None:
        if self._reads:
            self._reads = False
            self.answer.leave()


class Kept:
    """All answers that can be read. seconds: for which one is kept that nobody reads. Of those that are complete, the
    ones that were read longest ago go first when they are too many."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._answers: OrderedDict[str, KeptAnswer] = OrderedDict()

    def add(self, id: str) -> KeptAnswer:
        if id in self._answers:
            raise HTTPException(409, "there is an answer with this id already")
        if sum(not answer.end for answer in self._answers.values()) >= MOST_OPEN:
            raise Busy(RETRY_SECONDS)
        self._answers[id] = answer = KeptAnswer(id, self)
        return answer

    def get(self, id: str) -> KeptAnswer:
        if id not in self._answers:
            raise HTTPException(404, "there is no such answer (any more)")
        self._answers.move_to_end(id)
        return self._answers[id]

    def remove(self, answer: KeptAnswer) -> None:
        if self._answers.get(answer.id) is answer:
            del self._answers[answer.id]

    def tidy(self) -> None:
        ended = [answer for answer in self._answers.values() if answer.end]
        tokens = sum(len(answer.tokens) for answer in ended)
        many = len(ended)
        for answer in ended:
            if many <= MOST_ENDED and tokens <= MOST_TOKENS:
                break
            if not answer.readers:
                many, tokens = many - 1, tokens - len(answer.tokens)
                answer.forget()

    @property
    def idle(self) -> bool:
        return all(answer.end for answer in self._answers.values())

    def close(self, error: str) -> None:
        """End all that are not complete."""
        for answer in list(self._answers.values()):
            answer.stop("failed", error)
