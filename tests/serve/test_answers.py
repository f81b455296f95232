"""Answers side by side, driven step by step: who is next, who has gone, what is counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from nanochat.console import UserError
from nanochat.inference import Completion, Engine, Request, Stream, Token
from nanochat.serve import replica
from nanochat.serve.answers import Answer, Answers, Busy, Draining, OutOfTime
from tests.inference.fakes import Slots, parrot

Paced = tuple[Engine, threading.Semaphore]


def pace(engine: Engine, seq_len: int = 10_000) -> Paced:
    """An engine that says "a" without end, and a semaphore that each of its steps waits for."""
    made = parrot(engine.tokenizer, engine.tokenizer.encode("a"), seq_len=seq_len)
    may_step = threading.Semaphore(0)
    real = made.step

    def step() -> None:
        assert may_step.acquire(timeout=20)
        real()

    made.step = step  # type: ignore[method-assign]
    return made, may_step


@pytest.fixture
def paced(engine: Engine) -> Iterator[Paced]:
    made, may_step = pace(engine)
    yield made, may_step
    may_step.release(100_000)


def run(test: Callable[[], Coroutine[Any, Any, None]], answers: Answers, *may_step: threading.Semaphore) -> None:
    async def whole() -> None:
        try:
            await asyncio.wait_for(test(), 60)
        finally:
            for semaphore in may_step:
                semaphore.release(100_000)
            await asyncio.to_thread(answers.close)

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # another thread changes it
        await asyncio.sleep(0.005)


async def read(answer: Answer) -> list[Token]:
    """All tokens up to the end of the answer."""
    return [token async for piece in answer for token in piece.tokens]


def rows(engine: Engine, count: int) -> None:
    engine.max_batch = engine._batch.rows = count


def counts(answers: Answers) -> tuple[int, int]:
    return answers.stats.running, answers.stats.waiting


def ask(engine: Engine, tokens: int = 9000, **settings: Any) -> Request:
    return Request([engine.tokenizer.bos], tokens, **settings)


def test_two_at_once_both_get_tokens(paced: Paced) -> None:
    engine, may_step = paced
    answers = Answers(engine)

    async def test() -> None:
        long = [answers.begin(ask(engine)) for _ in range(2)]
        await until(lambda: answers.stats.running >= 1)
        may_step.release(3)
        for answer in long:
            assert (await anext(answer)).tokens[0].text == "a"
        assert counts(answers) == (2, 0)
        for answer in long:
            answer.leave()
        may_step.release(3)
        await until(lambda: answers.idle)

    run(test, answers, may_step)


def test_an_answer_alone_comes_token_by_token(paced: Paced) -> None:
    engine, may_step = paced
    answers = Answers(engine)

    async def test() -> None:
        answer = answers.begin(ask(engine))
        for _ in range(100):
            may_step.release()
            assert len((await anext(answer)).tokens) == 1

    run(test, answers, may_step)


def test_many_answers_are_handed_over_together(paced: Paced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their first tokens and their ends at once, what is between when it is due, and for all of them in one call."""
    engine, may_step = paced
    answers = Answers(engine)
    monkeypatch.setattr(replica, "EVENT_SECONDS", 1000)
    calls = 0

    async def test() -> None:
        nonlocal calls
        loop = asyncio.get_running_loop()
        real = loop.call_soon_threadsafe

        def counted(*arguments: Any) -> asyncio.Handle:
            nonlocal calls
            calls += 1
            return real(*arguments)

        loop.call_soon_threadsafe = counted  # type: ignore[assignment]
        answers._started = True  # below: the first of them must not begin alone
        asked = [answers.begin(ask(engine, 40)) for _ in range(3)]
        answers.replicas[0].start()
        await until(lambda: answers.stats.running == 3)
        may_step.release()
        for answer in asked:
            assert len((await anext(answer)).tokens) == 1
        may_step.release(39)
        for answer in asked:
            assert [len(piece.tokens) async for piece in answer] == [39]
        assert calls <= 3

    run(test, answers, may_step)


def test_pieces_that_nobody_reads_are_joined(paced: Paced) -> None:
    engine, may_step = paced
    answers = Answers(engine)

    async def test() -> None:
        answer = answers.begin([ask(engine, 500, n=2), ask(engine, 300)])
        may_step.release(600)
        await until(lambda: answers.idle)
        await asyncio.sleep(0)  # what was handed over last
        pieces = [piece async for piece in answer]
        assert [(piece.request, len(piece.tokens)) for piece in pieces] == [(0, 1000), (1, 300)]
        assert [[(c.sample, len(c.ids), c.finish) for c in piece.finished] for piece in pieces] == [
            [(0, 500, "length"), (1, 500, "length")],
            [(0, 300, "length")],
        ]

    run(test, answers, may_step)


def test_who_leaves_frees_the_slot_within_a_step(paced: Paced) -> None:
    engine, may_step = paced
    rows(engine, 1)
    answers = Answers(engine)
    runner: Slots = engine.runner  # type: ignore[assignment]

    async def test() -> None:
        first, second = (answers.begin(ask(engine)) for _ in range(2))
        may_step.release()
        await anext(first)
        assert counts(answers) == (1, 1)
        first.leave()
        may_step.release(2)  # one may have begun before
        assert (await anext(second)).tokens[0].text == "a"
        assert runner.steps <= 3
        assert (*counts(answers), answers.stats.requests) == (1, 0, 2)

    run(test, answers, may_step)


def test_who_leaves_the_queue_gives_the_place_back(paced: Paced) -> None:
    engine, may_step = paced
    rows(engine, 1)
    answers = Answers(engine, max_waiting=2)

    async def test() -> None:
        running = answers.begin(ask(engine))
        await until(lambda: counts(answers) == (1, 0))
        waiting = [answers.begin(ask(engine)) for _ in range(2)]
        with pytest.raises(Busy) as refused:
            answers.begin(ask(engine))
        assert refused.value.retry_after == 5
        waiting[0].leave()
        waiting[0].leave()
        assert counts(answers) == (1, 1)
        answers.begin(ask(engine)).leave()
        assert counts(answers) == (1, 1)
        running.leave()
        may_step.release(3)
        assert (await anext(waiting[1])).tokens
        assert answers.stats.requests == 2

    run(test, answers, may_step)


@pytest.mark.parametrize(("waiting", "seconds"), [(1, 1), (20, 20), (200, 60)])
def test_when_to_come_back(waiting: int, seconds: int, paced: Paced, monkeypatch: pytest.MonkeyPatch) -> None:
    """When half of those that wait have begun, at the speed of late; never in more than a minute."""
    engine, may_step = paced
    rows(engine, 1)
    answers = Answers(engine, max_waiting=waiting)
    now = 1000.0
    monkeypatch.setattr("nanochat.serve.answers.monotonic", lambda: now)

    def told() -> int:
        with pytest.raises(Busy) as refused:
            answers.begin(ask(engine))
        return refused.value.retry_after

    async def test() -> None:
        nonlocal now
        asked = [answers.begin(ask(engine, 1)) for _ in range(1 + waiting)]
        assert told() == 5  # nobody knows
        for number in range(9):
            now += 2
            may_step.release()
            assert len(await read(asked[number])) == 1
            asked.append(answers.begin(ask(engine, 1)))
        now += 2  # nine in 18 seconds
        await until(lambda: counts(answers) == (1, waiting))
        assert told() == seconds

    run(test, answers, may_step)


def test_one_client_alone_keeps_nobody_out(paced: Paced) -> None:
    """Who has nothing waiting may come to a full queue; that has an end, too."""
    engine, may_step = paced
    rows(engine, 1)
    answers = Answers(engine, max_waiting=2)

    async def test() -> None:
        for _ in range(3):
            answers.begin(ask(engine), "many")
        await until(lambda: counts(answers) == (1, 2))
        for client in ("a", "b"):
            answers.begin(ask(engine), client)
            for full in ("many", client):
                with pytest.raises(Busy):
                    answers.begin(ask(engine), full)
        with pytest.raises(Busy):
            answers.begin(ask(engine), "c")
        assert counts(answers) == (1, 4)

    run(test, answers, may_step)


def test_rows_are_counted(paced: Paced) -> None:
    """A request for four samples takes four rows, and frees them; what comes behind it begins when there is room."""
    engine, may_step = paced
    rows(engine, 5)
    answers = Answers(engine, max_waiting=3)

    async def test() -> None:
        wide = answers.begin([ask(engine, 3, n=4), ask(engine, 5)])
        late = answers.begin(ask(engine, 2, n=3))
        await until(lambda: counts(answers) == (5, 3))
        with pytest.raises(Busy):
            answers.check("")
        may_step.release(3)
        await until(lambda: counts(answers) == (1 + 3, 0))
        may_step.release(10)
        assert len(await read(wide)) == 4 * 3 + 5
        assert len(await read(late)) == 3 * 2
        assert answers.idle
        assert (answers.stats.tokens, answers.stats.prompt_tokens, answers.stats.requests) == (23, 3, 3)

    run(test, answers, may_step)


def test_clients_take_turns(paced: Paced) -> None:
    """One who asks a hundred times, and one who asks for a hundred things at once, do not keep others waiting."""
    engine, may_step = paced
    rows(engine, 1)
    answers = Answers(engine, 1000)
    order: list[str] = []

    async def note(name: str, answer: Answer) -> None:
        async for piece in answer:
            order.extend(name for _ in piece.finished)

    async def test() -> None:
        asked = [("a", answers.begin(ask(engine, 1), "1.1.1.1")) for _ in range(30)]
        asked.append(("b", answers.begin([ask(engine, 1)] * 30, "2.2.2.2")))
        asked.append(("c", answers.begin(ask(engine, 1), "3.3.3.3")))
        reading = [asyncio.create_task(note(*one)) for one in asked]
        for done in range(1, 62):
            may_step.release()
            await until(lambda done=done: len(order) == done)  # type: ignore[misc]
        await asyncio.gather(*reading)
        assert set(order[:4]) == {"a", "b", "c"}
        for seen in range(2, 61):
            assert abs(order[:seen].count("a") - order[:seen].count("b")) <= 2

    run(test, answers, may_step)


def test_it_sleeps_when_there_is_nothing_to_do(paced: Paced) -> None:
    engine, may_step = paced
    may_step.release(100_000)
    answers = Answers(engine)
    runner: Slots = engine.runner  # type: ignore[assignment]

    async def test() -> None:
        for number in range(1, 4):
            assert len(await read(answers.begin(ask(engine, 5)))) == 5
            assert answers.idle
            await asyncio.sleep(0.02)
            assert runner.steps == 5 * number

    run(test, answers, may_step)


def test_a_request_that_the_engine_refuses_is_its_own_affair(paced: Paced) -> None:
    engine, may_step = paced
    may_step.release(100_000)
    answers = Answers(engine)

    async def test() -> None:
        good, bad = answers.begin(ask(engine, 50)), answers.begin([ask(engine, 1), Request([10**6], n=3)])
        with pytest.raises(UserError, match="id"):
            await read(bad)
        assert len(await read(good)) == 50
        await until(lambda: answers.idle)

    run(test, answers, may_step)


def test_a_step_that_fails_ends_what_it_was_for(paced: Paced) -> None:
    engine, may_step = paced
    may_step.release(100_000)
    answers = Answers(engine)
    runner: Slots = engine.runner  # type: ignore[assignment]
    real = runner.step

    def fail(chunks: Any) -> Any:
        runner.step = real  # type: ignore[method-assign]
        raise MemoryError

    async def test() -> None:
        runner.step = fail  # type: ignore[method-assign]
        with pytest.raises(MemoryError):
            await anext(answers.begin(ask(engine, 50)))
        assert len(await read(answers.begin(ask(engine, 50)))) == 50
        assert (*counts(answers), answers.stats.requests) == (0, 0, 2)

    run(test, answers, may_step)


def test_a_fault_after_a_step_ends_what_it_was_for(paced: Paced, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a lack of memory does where samples are put together; later answers do not notice."""
    engine, may_step = paced
    may_step.release(100_000)
    answers = Answers(engine)
    real = Stream.finished

    def fail(stream: Stream) -> list[Completion]:
        monkeypatch.setattr(Stream, "finished", real)
        raise MemoryError

    monkeypatch.setattr(Stream, "finished", fail)

    async def test() -> None:
        with pytest.raises(MemoryError):
            await read(answers.begin(ask(engine, 50, n=2)))
        assert answers.idle
        assert len(await read(answers.begin(ask(engine, 50)))) == 50
        assert answers.idle

    run(test, answers, may_step)


@pytest.mark.parametrize("begun", [True, False])
def test_time_is_limited(begun: bool, paced: Paced) -> None:
    """Both of an answer that is being made and of one that waits; its slot or its place is free then."""
    engine, may_step = paced
    rows(engine, 1)
    answers = Answers(engine, max_seconds=0.2)

    async def test() -> None:
        first, second = answers.begin(ask(engine)), answers.begin(ask(engine))
        if begun:
            may_step.release()
        with pytest.raises(OutOfTime):
            await read(first if begun else second)
        may_step.release(3)
        await until(lambda: answers.idle)

    run(test, answers, may_step)


def test_draining(paced: Paced) -> None:
    engine, may_step = paced
    answers = Answers(engine)

    async def test() -> None:
        first = answers.begin(ask(engine, 10))
        answers.drain()
        with pytest.raises(Draining):
            answers.begin(ask(engine, 10))
        may_step.release(10)
        assert len(await read(first)) == 10
        assert answers.idle

    run(test, answers, may_step)


@pytest.mark.parametrize("given", [False, True])
def test_closing_ends_all(given: bool, paced: Paced) -> None:
    """Also what a replica would begin with its next step."""
    engine, may_step = paced
    engine.max_batch = 1
    answers = Answers(engine)

    async def test() -> None:
        both = [answers.begin(ask(engine)) for _ in range(2)]
        await until(lambda: answers.stats.running == 1)
        if given:
            engine.max_batch = 2
            both.append(answers.begin(ask(engine)))
        assert answers.stats.waiting == len(both) - 1
        closing = asyncio.create_task(asyncio.to_thread(answers.close))
        await until(lambda: answers._closing)
        may_step.release()
        await closing
        assert len((await anext(both[0])).tokens) == 1
        for answer in both:
            with pytest.raises(Draining):
                await anext(answer)
        assert answers.idle

    run(test, answers, may_step)


def test_replicas_share_the_work(engine: Engine) -> None:
    """Who computes least gets what is next, and one that is busy hinders nobody."""
    (first, first_may), (second, second_may) = pace(engine), pace(engine)
    rows(first, 3)
    rows(second, 3)
    answers = Answers([first, second])

    async def test() -> None:
        asked = [answers.begin(ask(first, 4)) for _ in range(2)]
        await until(lambda: counts(answers) == (2, 0))
        asked += [answers.begin(ask(first, 4)) for _ in range(5)]
        assert [replica.rows for replica in answers.replicas] == [3, 3]
        second_may.release(4)
        await until(lambda: answers.stats.tokens >= 4)
        assert [replica.rows for replica in answers.replicas] == [3, 3]  # the seventh has come in
        second_may.release(10)
        await until(lambda: answers.replicas[1].rows == 0)
        last = answers.begin(ask(first, 2))
        assert {piece.gpu async for piece in last} == {1}
        first_may.release(10)
        assert [len(await read(answer)) for answer in asked] == [4] * 7
        assert answers.idle

    run(test, answers, first_may, second_may)


def test_a_broken_replica_is_not_given_everything(engine: Engine) -> None:
    """It computes least of all. When it has rested, it is tried again; where there is no other, it does not rest."""
    (first, first_may), (second, second_may) = pace(engine), pace(engine)
    for may_step in (first_may, second_may):
        may_step.release(100_000)
    answers = Answers([first, second])
    runner: Slots = first.runner  # type: ignore[assignment]
    real = runner.step

    def fail(chunks: Any) -> Any:
        raise RuntimeError("the device is lost")

    async def gpu() -> int | None:
        try:
            return {piece.gpu async for piece in answers.begin(ask(first, 4))}.pop()
        except RuntimeError:
            return None

    async def test() -> None:
        runner.step = fail  # type: ignore[method-assign]
        assert [await gpu() for _ in range(6)] == [None, 1, 1, 1, 1, 1]
        answers.replicas[0].rests_until = 0
        assert [await gpu() for _ in range(3)] == [None, 1, 1]
        runner.step = real  # type: ignore[method-assign]
        answers.replicas[0].rests_until = 0
        assert await gpu() == 0
        for each in answers.replicas:
            each.rests_until = float("inf")
        assert await gpu() == 0

    run(test, answers, first_may, second_may)


def test_samples_are_as_without_a_server(engine: Engine) -> None:
    """From a real model, whatever runs beside."""
    answers = Answers(engine)
    ids = engine.tokenizer.encode("how many letters")
    requests = [Request(ids[: 3 + i], 5 + 3 * i, 1.0, seed=i, n=1 + i % 3) for i in range(12)]
    expected = engine.generate(requests)

    async def test() -> None:
        asked = [answers.begin(requests[:6]), answers.begin(requests[6:])]
        came: list[Completion] = []
        for answer in asked:
            samples: dict[int, list[Completion]] = {}
            async for piece in answer:
                samples.setdefault(piece.request, []).extend(piece.finished)
            came += [done for i in range(6) for done in sorted(samples[i], key=lambda done: done.sample)]
        assert [done.ids for done in came] == [done.ids for done in expected]

    run(test, answers)
