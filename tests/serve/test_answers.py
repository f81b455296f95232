"""Answers side by side from one engine, driven step by step."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from nanochat.inference import Engine, Request, Token
from nanochat.serve.answers import Answer, Answers
from tests.inference.fakes import Slots, parrot


@pytest.fixture
def paced(engine: Engine) -> Iterator[tuple[Engine, threading.Semaphore]]:
    """An engine that says "a" without end, and a semaphore that each of its steps waits for."""
    tokenizer = engine.tokenizer
    made = parrot(tokenizer, tokenizer.encode("a"), seq_len=10_000)
    may_step = threading.Semaphore(0)
    real = made.step

    def step() -> None:
        assert may_step.acquire(timeout=20)
        real()

    made.step = step  # type: ignore[method-assign]
    yield made, may_step
    may_step.release(100_000)


def run(test: Callable[[], Coroutine[Any, Any, None]], answers: Answers, may_step: threading.Semaphore) -> None:
    async def whole() -> None:
        try:
            await asyncio.wait_for(test(), 60)
        finally:
            may_step.release(100_000)
            await asyncio.to_thread(answers.close)

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # another thread changes it
        await asyncio.sleep(0.005)


def tokens(answer: Answer) -> AsyncIterator[Token]:
    return aiter(answer)


def test_two_at_once_both_get_tokens(paced: tuple[Engine, threading.Semaphore]) -> None:
    engine, may_step = paced
    answers = Answers(engine, 5)

    async def test() -> None:
        long = [answers.begin(Request([engine.tokenizer.bos], 9000)) for _ in range(2)]
        await until(lambda: answers.stats.running >= 1)
        may_step.release(3)
        for answer in long:
            assert (await anext(tokens(answer))).text == "a"
        assert (answers.stats.running, answers.stats.waiting) == (2, 0)
        for answer in long:
            answer.leave()
        may_step.release(3)
        await until(lambda: answers.stats.running == 0)

    run(test, answers, may_step)


def test_who_leaves_frees_the_slot_within_a_step(paced: tuple[Engine, threading.Semaphore]) -> None:
    engine, may_step = paced
    engine.max_batch = engine._batch.rows = 1
    answers = Answers(engine, 5)
    runner: Slots = engine.runner  # type: ignore[assignment]

    async def test() -> None:
        first, second = (answers.begin(Request([engine.tokenizer.bos], 9000)) for _ in range(2))
        may_step.release()
        await anext(tokens(first))
        assert (answers.stats.running, answers.stats.waiting) == (1, 1)
        first.leave()
        may_step.release(2)  # one may have begun before
        assert (await anext(tokens(second))).text == "a"
        assert runner.steps <= 3
        assert (answers.stats.running, answers.stats.waiting, answers.stats.requests) == (1, 0, 2)

    run(test, answers, may_step)


def test_it_sleeps_when_there_is_nothing_to_do(paced: tuple[Engine, threading.Semaphore]) -> None:
    engine, may_step = paced
    may_step.release(100_000)
    answers = Answers(engine, 5)
    runner: Slots = engine.runner  # type: ignore[assignment]

    async def test() -> None:
        for number in range(1, 4):
            answer = answers.begin(Request([engine.tokenizer.bos], 5))
            assert len([token async for token in answer]) == 5
            await until(lambda: not answers._working)
            assert runner.steps == 5 * number

    run(test, answers, may_step)


def test_a_request_that_the_engine_refuses_is_its_own_affair(paced: tuple[Engine, threading.Semaphore]) -> None:
    engine, may_step = paced
    may_step.release(100_000)
    answers = Answers(engine, 5)

    async def test() -> None:
        good, bad = answers.begin(Request([engine.tokenizer.bos], 50)), answers.begin(Request([10**6]))
        with pytest.raises(Exception, match="id"):
            await anext(tokens(bad))
        assert len([token async for token in good]) == 50
        assert (answers.stats.running, answers.stats.waiting) == (0, 0)

    run(test, answers, may_step)


def test_a_step_that_fails_ends_what_it_was_for(paced: tuple[Engine, threading.Semaphore]) -> None:
    engine, may_step = paced
    may_step.release(100_000)
    answers = Answers(engine, 5)
    runner: Slots = engine.runner  # type: ignore[assignment]
    real = runner.step

    def fail(chunks: Any) -> Any:
        runner.step = real  # type: ignore[method-assign]
        raise MemoryError

    async def test() -> None:
        runner.step = fail  # type: ignore[method-assign]
        with pytest.raises(MemoryError):
            await anext(tokens(answers.begin(Request([engine.tokenizer.bos], 50))))
        after = answers.begin(Request([engine.tokenizer.bos], 50))
        assert len([token async for token in after]) == 50
        assert (answers.stats.running, answers.stats.waiting, answers.stats.requests) == (0, 0, 2)

    run(test, answers, may_step)


def test_closing_ends_all(paced: tuple[Engine, threading.Semaphore]) -> None:
    engine, may_step = paced
    engine.max_batch = 1
    answers = Answers(engine, 5)

    async def test() -> None:
        both = [answers.begin(Request([engine.tokenizer.bos], 9000)) for _ in range(2)]
        await until(lambda: answers.stats.running == 1)
        closing = asyncio.create_task(asyncio.to_thread(answers.close))
        await until(lambda: answers._closing)
        may_step.release()
        await closing
        assert [len([token async for token in answer]) for answer in both] == [1, 0]

    run(test, answers, may_step)
