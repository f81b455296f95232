"""Continuous batching over a runner whose logits depend on every token that a slot holds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from threading import Thread

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.inference import Completion, Engine, Request
from nanochat.inference.batch import Batch
from nanochat.inference.generation import Generation
from nanochat.inference.request import Token
from nanochat.inference.runner import Chunk
from nanochat.inference.sampling import choose, generator
from nanochat.tokenizer import Tokenizer
from tests.inference.fakes import Hashed, Model, hashed, parrot

LETTERS = list(range(97, 105))


def alone(engine: Engine, runner: Hashed, request: Request) -> list[Completion]:
    """The answers of a request, each token chosen from the logits after the whole sequence: no slots, no batch."""
    answers = []
    for generation in engine._start(request, 0, deque()):
        if generation.scores:
            ends = range(1, len(request.prompt) + (request.max_tokens > 0))
            generation.score(0, torch.stack([runner.logits(request.prompt[:end]) for end in ends]))
        while generation.open:
            [choice] = choose(runner.logits(generation.sequence)[None], [generation.draw()])
            generation.push(choice.id, choice.logprob, choice.top)
        answers.append(generation.completion())
    return answers


def ids_of(answers: list[Completion]) -> list[list[int]]:
    return [answer.ids for answer in answers]


# Prompts that often begin alike.
prompts = st.builds(
    lambda beginning, rest: [*(LETTERS * 5)[:beginning], *rest],
    st.integers(0, 40),
    st.lists(st.sampled_from(LETTERS), min_size=1, max_size=12),
)
requests = st.builds(
    Request,
    prompts,
    max_tokens=st.integers(1, 30),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([None, 1, 5]),
    seed=st.integers(0, 3),
    n=st.integers(1, 3),
    top_p=st.sampled_from([1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.05]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    stop=st.sampled_from([(), ("a", "77")]),
    logprobs=st.sampled_from([None, 0, 2]),
    prompt_logprobs=st.sampled_from([None, None, 0, 2]),
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_beside_it_an_answer_is_its_own(tokenizer: Tokenizer, data: st.DataObject) -> None:
    """Requests come and are given up at any time."""
    rows, chunk = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([1, 3, 16, 64]))
    engine, runner = hashed(tokenizer, max_batch=rows, chunk=chunk)
    asked: list[tuple[Request, list[Generation]]] = []
    batch = engine._batch
    for action in data.draw(st.lists(st.sampled_from(["add", "add", "cancel", "step", "step", "steps"]), max_size=25)):
        if action == "add":
            request = data.draw(requests)
            generations = engine._start(request, len(asked), deque())
            asked.append((request, generations))
            for generation in generations:
                batch.add(generation)
        elif action == "cancel" and asked:
            request, generations = data.draw(st.sampled_from(asked))
            # The first sample's numbers for the prompt are all samples'.
            together = generations if request.prompt_logprobs is not None else [data.draw(st.sampled_from(generations))]
            for generation in together:
                batch.cancel(generation)
        elif action != "cancel":
            for _ in range(7 if action == "steps" else 1):
                batch.step()
    while not batch.done:
        batch.step()
    for request, generations in asked:
        for generation, expected in zip(generations, alone(engine, runner, request), strict=True):
            got = generation.completion()
            if generation.cancelled:
                assert expected.ids[: len(got.ids)] == got.ids
            else:
                got.request = expected.request
                assert got == expected
    assert runner.largest <= chunk
    assert runner.slots <= rows


def start(engine: Engine, prompt: list[int], tokens: int, n: int = 1) -> list[Generation]:
    """Added to the engine's batch. Greedy, without tools or an end of its own."""
    for penalties in engine.penalties.values():
        penalties[: min(LETTERS)] = penalties[max(LETTERS) + 1 :] = -torch.inf
    request = Request(prompt, tokens, temperature=0.0, n=n)
    generations = engine._start(request, 0, deque())
    for generation in generations:
        engine._batch.add(generation)
    return generations


def test_a_long_prompt_does_not_stop_the_others(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, seq_len=200, chunk=10)
    [first] = start(engine, [97], 100)
    engine.step()
    [long] = start(engine, [98] * 95, 5)
    for step in range(2, 11):
        engine.step()
        assert len(first.ids) == step
        assert not long.ids
    engine.step()
    assert len(long.ids) == 1
    assert runner.largest == 10


def test_several_prompts_fill_a_step(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, chunk=16)
    asked = [start(engine, [97 + place] * 6, 3)[0] for place in range(4)]
    engine.step()
    assert [len(generation.ids) for generation in asked] == [1, 1, 0, 0]
    assert runner.computed == 16  # of the third prompt a piece
    assert len(engine._batch.waiting) == 1  # which sees what is known when its turn comes
    engine.step()
    assert [len(generation.ids) for generation in asked] == [2, 2, 1, 1]


def test_a_cancelled_row_is_taken_over_in_the_next_step(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, max_batch=2)
    one, two, three = (start(engine, [97 + place], 40)[0] for place in range(3))
    engine.step()
    engine.step()
    assert [len(generation.ids) for generation in (one, two, three)] == [2, 2, 0]
    engine._batch.cancel(one)
    engine.step()
    assert [len(generation.ids) for generation in (one, two, three)] == [2, 3, 1]
    assert runner.slots == 2


def test_a_waiting_one_that_is_cancelled_never_begins(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, max_batch=1)
    one, two, three = (start(engine, [97 + place], 2)[0] for place in range(3))
    engine.step()
    engine._batch.cancel(two)
    while not engine._batch.done:
        engine.step()
    assert (len(one.ids), len(two.ids), len(three.ids)) == (2, 0, 2)
    assert runner.computed == 4


def test_streams_that_are_dropped_at_once_are_not_kept(tokenizer: Tokenizer) -> None:
    engine, _ = hashed(tokenizer)
    for _ in range(50):
        engine.stream(Request([97], 3))
    assert len(engine._batch.waiting) == 1


def test_an_idle_engine_computes_nothing(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    engine.step()
    start(engine, [97], 2)
    for _ in range(5):
        engine.step()
    assert runner.steps == 2


def test_the_cache_is_as_large_as_it_must_be(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, max_batch=8, seq_len=64)
    engine.generate([Request([97], 5, temperature=0.0, stop=["never"])])
    assert (runner.slots, runner.length) == (1, 5)
    engine.generate([Request([97 + n], 6, temperature=0.0) for n in range(3)])
    assert (runner.slots, runner.length) == (4, 10)  # the first one's is remembered
    engine.generate([Request([97], 500, n=20, temperature=0.0)])
    assert (runner.slots, runner.length) == (8, 63)  # the last token of an answer is not computed


def test_random_numbers_are_drawn_in_order(tokenizer: Tokenizer) -> None:
    engine, _ = hashed(tokenizer)
    for sample, generation in enumerate(engine._start(Request([97], 9, seed=3, n=2), 0, deque())):
        one_by_one = generator(3, sample)
        for _ in range(200):
            assert generation.draw().uniform == torch.rand((), generator=one_by_one).item()


# Errors.


class Failing(Hashed):
    failure: type[BaseException] | None = None
    poisoned: list[int] | None = None  # the beginning of a sequence whose logits are nan

    def logits(self, ids: list[int]) -> torch.Tensor:
        if self.failure:
            raise self.failure()
        bad = self.poisoned and ids[: len(self.poisoned)] == self.poisoned
        return super().logits(ids) * (math.nan if bad else 1)


@pytest.fixture
def failing(tokenizer: Tokenizer) -> tuple[Engine, Failing]:
    model = Model(tokenizer.vocab_size)
    runner = Failing(model)
    return Engine(model, tokenizer, runner=runner), runner  # type: ignore[arg-type]


def test_a_bad_row_ends_alone(failing: tuple[Engine, Failing]) -> None:
    engine, runner = failing
    good, bad = Request([97, 98], 10), Request([99, 100], 10)
    expected = alone(engine, runner, good)
    runner.poisoned = bad.prompt
    streams = [engine.stream(request) for request in (good, bad)]
    assert [token.id for token in streams[0]] == expected[0].ids
    with pytest.raises(UserError, match="not finite"):
        next(streams[1])
    assert list(streams[1]) == []
    with pytest.raises(UserError, match="not finite"):
        engine.generate([good, bad])
    assert ids_of(engine.generate([good])) == ids_of(expected)


@pytest.mark.parametrize("failure", [MemoryError, KeyboardInterrupt])
def test_after_a_failed_step_the_engine_goes_on(failing: tuple[Engine, Failing], failure: type[BaseException]) -> None:
    engine, runner = failing
    request = Request([97, 98, 99], 20, temperature=0.0)
    first, second = engine.stream(request), engine.stream(request)
    next(first)
    runner.failure = failure
    with pytest.raises(failure):
        list(first)
    with pytest.raises(failure):
        list(second)
    assert list(first) == list(second) == []
    runner.failure, computed = None, runner.computed
    assert ids_of(engine.generate([request])) == ids_of(alone(engine, runner, request))
    # What Ctrl-C has stopped was right as far as it went; after an error nothing is trusted.
    assert runner.computed - computed == 19 + (1 if failure is KeyboardInterrupt else 3)
    assert engine._batch.done


def test_two_threads_in_one_engine_are_told_so_and_the_answer_goes_on(tokenizer: Tokenizer) -> None:
    told: list[BaseException] = []

    class Slow(Hashed):
        def step(self, chunks: Sequence[Chunk]) -> torch.Tensor:
            other = Thread(target=self.disturb)
            other.start()
            other.join()
            return super().step(chunks)

        def disturb(self) -> None:
            try:
                engine.step()
            except RuntimeError as error:
                told.append(error)

    model = Model(tokenizer.vocab_size)
    engine = Engine(model, tokenizer, runner=Slow(model))  # type: ignore[arg-type]
    request = Request([97, 98], 9, temperature=0.0)
    assert ids_of(engine.generate([request])) == ids_of(alone(engine, Hashed(model), request))
    assert len(told) == 9 and all("two threads" in str(error) for error in told)


def test_an_error_while_counting_ends_the_work(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    numbers = count()

    def stop_at_five() -> None:
        if next(numbers) == 5:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        engine.generate([Request([97], 50, n=3)], stop_at_five)
    steps = runner.steps
    engine.step()
    assert runner.steps == steps


# Streams, several at once.


def test_streams_in_turns_share_their_steps(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    asked = [Request([97 + place], 12, seed=place, stop=["never"], n=1 + place % 2) for place in range(4)]
    expected = [[c.ids for c in alone(engine, runner, request)] for request in asked]
    streams = [engine.stream(request) for request in asked]
    got: list[list[Token]] = [[] for _ in streams]
    left = set(range(4))
    while left:
        for place in sorted(left):
            try:
                got[place].append(next(streams[place]))
            except StopIteration:
                left.remove(place)
    for place, request in enumerate(asked):
        by_sample = [[t.id for t in got[place] if t.sample == sample] for sample in range(request.n)]
        assert by_sample == expected[place]
    assert runner.steps <= 12 + 2


def test_a_stream_beside_generate(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    one, two = Request([97], 9, seed=1), Request([98], 20, seed=2, n=2)
    stream = engine.stream(one)
    first = next(stream)
    assert ids_of(engine.generate([two])) == ids_of(alone(engine, runner, two))
    assert [[first.id, *(token.id for token in stream)]] == ids_of(alone(engine, runner, one))


def close(stream: Iterator[Token]) -> None:
    stream.close()  # type: ignore[attr-defined]


def drop(stream: Iterator[Token]) -> None:
    del stream


@pytest.mark.parametrize("leave", [close, drop], ids=["closed", "dropped"])
def test_a_stream_that_is_left_computes_nothing_more(
    tokenizer: Tokenizer, leave: Callable[[Iterator[Token]], None]
) -> None:
    engine = parrot(tokenizer, tokenizer.encode("a"))
    runner: Hashed = engine.runner  # type: ignore[assignment]
    streams = [engine.stream(Request([tokenizer.bos], 50)) for _ in range(2)]
    next(streams[0])
    assert runner.computed == 2
    leave(streams.pop())
    next(streams[0])
    assert runner.computed == 3
    leave(streams.pop())
    engine.step()
    assert runner.computed == 3


def test_take_takes_no_step(tokenizer: Tokenizer) -> None:
    engine = parrot(tokenizer, tokenizer.encode("a"))
    stream = engine.stream(Request([tokenizer.bos], 3))
    assert stream.take() == []
    engine.step()
    assert [token.text for token in stream.take()] == ["a"]
    engine.step()
    engine.step()
    assert stream.done
    assert [token.text for token in stream.take()] == ["a", "a"]
    assert list(stream) == []


def test_finished_tells_each_sample_once_and_takes_no_step(tokenizer: Tokenizer) -> None:
    """Also after the tokens have been read to the end, which closes the stream."""
    engine, runner = hashed(tokenizer)
    request = Request([97], 60, temperature=2.0, n=6, logprobs=1, stop=["7"])
    expected = engine.generate([request])
    assert len({len(answer.ids) for answer in expected}) > 2
    stream = engine.stream(request)
    told: list[Completion] = []
    while not stream.done:
        engine.step()
        steps = runner.steps
        new = stream.finished()
        assert stream.finished() == [] and runner.steps == steps
        assert [answer.sample for answer in new] == sorted(answer.sample for answer in new)
        told += new
    assert sorted(told, key=lambda answer: answer.sample) == expected
    stream = engine.stream(request)
    assert stream.finished() == []
    list(stream)
    assert stream.finished() == expected
    cancelled = engine.stream(request)
    next(cancelled)
    cancelled.close()
    assert cancelled.finished() == [answer for answer in expected if not answer.ids]


# What no prompt and no setting may break.


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 2, 4, 5, 6, 50])
def test_tiny_windows(tokenizer: Tokenizer, window: int, length: int) -> None:
    engine, runner = hashed(tokenizer, seq_len=window)
    for completion in engine.generate([Request([tokenizer.bos, *LETTERS * 9][:length], 10**9, n=2)]):
        assert 0 <= len(completion.ids) <= window
        assert completion.finish == "stop" or completion.ids
    assert runner.length <= window


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_any_length_of_prompt(tokenizer: Tokenizer, window: int, chunk: int, lengths: list[int]) -> None:
    engine, runner = hashed(tokenizer, seq_len=window, chunk=chunk, max_batch=2)
    asked = [Request((LETTERS * 12)[:length], 10**6, seed=length) for length in lengths]
    answers = engine.generate(asked)
    assert ids_of(answers) == [alone(engine, runner, request)[0].ids for request in asked]


def test_log_probabilities(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    plain = Request([97, 98], 40, temperature=2.0, top_k=None, seed=5, n=12)
    asked = Request([97, 98], 40, temperature=2.0, top_k=None, seed=5, n=12, logprobs=3)
    answers = engine.generate([asked])
    assert ids_of(answers) == ids_of(engine.generate([plain]))
    assert all(c.logprobs is None and c.top is None for c in engine.generate([plain]))
    tokens = list(engine.stream(asked))
    forced = 0
    for completion in answers:
        assert completion.logprobs is not None and completion.top is not None
        streamed = [token for token in tokens if token.sample == completion.sample]
        assert [(token.logprob, token.top) for token in streamed] == list(
            zip(completion.logprobs, completion.top, strict=True)
        )
        assert len(completion.logprobs) == len(completion.ids)
        sequence, kind, output = list(asked.prompt), "text", False
        for id, logprob, top in zip(completion.ids, completion.logprobs, completion.top, strict=True):
            output = output or id == engine.grammar.output_start
            if output:
                assert (logprob, top) == (None, ())
                forced += 1
            else:
                likely = (runner.logits(sequence) + engine.penalties[kind]).double().log_softmax(-1)  # type: ignore[index]
                assert logprob == pytest.approx(float(likely[id]), abs=1e-4)
                assert [pair[1] for pair in top] == pytest.approx(likely.topk(3).values.tolist(), abs=1e-4)
            output = output and id != engine.grammar.output_end
            kind = engine.grammar.opens.get(id, kind)  # type: ignore[arg-type]
            sequence.append(id)
    assert forced


def test_batches_can_be_stepped_by_hand(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    batch = Batch(runner, 2, engine.window)
    assert batch.done
    [generation] = engine._start(Request([97], 3, temperature=0.0), 0, deque())
    batch.add(generation)
    assert not batch.done
    while not batch.done:
        batch.step()
    assert generation.ids == alone(engine, runner, Request([97], 3, temperature=0.0))[0].ids
