"""A beginning that some slot holds is not computed again, and answers do not change by that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from nanochat.inference import Engine, Request
from nanochat.tokenizer import Tokenizer
from tests.inference.fakes import Hashed, hashed

if TYPE_CHECKING:
    from nanochat.model import GPT

QUIET = {"temperature": 0.0}


def counted(engine: Engine, runner: Hashed, requests: list[Request]) -> tuple[list[list[int]], int]:
    """The answers, checked against a new engine's, and the tokens that were computed for them."""
    before = runner.computed
    answers = [c.ids for c in engine.generate(requests)]
    fresh, other = hashed(engine.tokenizer, 1, engine.window)
    with torch.no_grad():
        other.model.weight.copy_(runner.model.weight)
    assert answers == [c.ids for request in requests for c in fresh.generate([request])]
    return answers, runner.computed - before


def test_the_next_turn_computes_what_is_new(tokenizer: Tokenizer) -> None:
    """Also after tool calls."""
    engine, runner = hashed(tokenizer, seq_len=1000)
    question = tokenizer.encode("The quick brown fox jumps over the lazy dog.")
    prompt: list[int] = []
    for seed in range(8):
        prompt += question
        [answer], computed = counted(engine, runner, [Request(prompt, 12, seed=seed, top_k=3)])
        # The question, the answer, and of the one before what was never computed: its end.
        assert computed <= len(question) + 12 + 12
        prompt += answer
    assert len(prompt) > 300
    assert engine.grammar.output_start in prompt
    assert runner.slots == 1


def test_the_same_prompt_again_computes_its_last_token(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    request = Request(list(range(97, 127)), 1, **QUIET)
    assert counted(engine, runner, [request])[1] == 30
    assert counted(engine, runner, [request])[1] == 1
    shorter = Request(request.prompt[:20], 1, **QUIET)
    assert counted(engine, runner, [shorter])[1] == 1
    assert runner.copied == 0


def test_samples_are_prefilled_once(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, max_batch=8, chunk=16)
    _, computed = counted(engine, runner, [Request(list(range(97, 137)), 1, n=8)])
    assert computed == 40 + 7
    assert runner.copied == 6 * 39  # the second sample goes on in the slot that the first one leaves


def test_more_samples_than_rows(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, max_batch=2)
    answers, computed = counted(engine, runner, [Request(list(range(97, 127)), 4, n=9, seed=1)])
    assert computed <= 30 + 8 + 9 * 3
    assert len({tuple(ids) for ids in answers}) > 1


def test_a_request_waits_for_a_beginning_that_is_being_computed(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, chunk=16)
    beginning = list(range(97, 127))
    asked = [Request([*beginning, 100 + place, 97], 3, **QUIET) for place in range(4)]
    assert counted(engine, runner, asked)[1] <= 32 + 3 * 2 + 4 * 2
    assert runner.copied == 3 * 30


def test_a_busy_slot_is_copied(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    prompt = list(range(97, 127))
    stream = engine.stream(Request(prompt, 30, top_k=1))
    first = next(stream)
    assert counted(engine, runner, [Request([*prompt, 97], 1)])[1] == 2  # one of them the stream's
    alone, _ = hashed(tokenizer)
    assert [first.id, *(token.id for token in stream)] == alone.generate([Request(prompt, 30, top_k=1)])[0].ids


def test_a_cancelled_answer_is_a_beginning_too(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, seq_len=200, chunk=16)
    prompt = [97 + place % 20 for place in range(100)]
    stream = engine.stream(Request(prompt, 50))
    for _ in range(3):
        engine.step()
    stream.close()
    assert counted(engine, runner, [Request(prompt, 1)])[1] == 100 - 48


def test_several_conversations_in_turns_are_all_remembered(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    beginnings = [[97 + place] * 20 for place in range(4)]
    for prompt in beginnings:
        engine.generate([Request(prompt, 1, **QUIET)])
    for prompt in beginnings:
        assert counted(engine, runner, [Request([*prompt, 99], 1, **QUIET)])[1] <= 2
    assert runner.slots == 4
    engine.generate([Request([98, 97] * 10, 1, **QUIET)])  # a fifth one takes the place of the oldest
    assert counted(engine, runner, [Request([*beginnings[1], 99], 1, **QUIET)])[1] <= 2
    assert counted(engine, runner, [Request([*beginnings[0], 99], 1, **QUIET)])[1] == 21
    assert runner.slots == 4


def test_a_long_sequence_is_not_lost_to_a_short_likeness(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    long = list(range(97, 137))
    engine.generate([Request(long, 1, **QUIET)])
    assert counted(engine, runner, [Request([*long[:10], 97, 98], 1, **QUIET)])[1] == 2
    assert counted(engine, runner, [Request([*long, 99], 1, **QUIET)])[1] == 1 + 1 - 1
    assert runner.copied == 10


def test_new_weights_make_what_is_held_worthless(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    request = Request(list(range(97, 117)), 5, **QUIET)
    first, _ = counted(engine, runner, [request])
    for change in (1, 2):
        with torch.no_grad():
            runner.model.weight += 1
        other, computed = counted(engine, runner, [request])
        assert computed >= 20
        assert other != first, change
        assert counted(engine, runner, [request])[1] < 20
    with torch.no_grad():
        runner.model.weight.fill_(0)
    assert counted(engine, runner, [request])[0] == first


def test_new_weights_that_could_not_be_taken_are_tried_again(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    request = Request(list(range(97, 117)), 5, **QUIET)
    engine.generate([request])
    with torch.no_grad():
        runner.model.weight += 1
    takes, asked = runner.refresh, []

    def refresh() -> None:
        asked.append(1)
        if len(asked) == 1:
            raise KeyboardInterrupt
        takes()

    runner.refresh = refresh  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        engine.generate([request])
    assert counted(engine, runner, [request])[1] >= 20
    assert len(asked) == 2


def test_new_weights_in_the_middle_of_an_answer(tokenizer: Tokenizer) -> None:
    """It goes on as if the new ones had read all of it."""
    engine, runner = hashed(tokenizer)
    prompt = list(range(97, 117))
    stream = engine.stream(Request(prompt, 30, top_k=1))
    begun = [next(stream).id for _ in range(3)]
    assert begun[-1] == engine.grammar.python_end  # what comes next is text, as after a prompt
    with torch.no_grad():
        runner.model.weight += 1
    engine.generate([Request([97], 1)])
    went_on = [*begun, *(token.id for token in stream)]
    continued, _ = counted(engine, runner, [Request([*prompt, *begun], 27, top_k=1)])
    assert went_on == [*begun, *continued[0]]


def test_on_a_model(model: GPT, tokenizer: Tokenizer) -> None:
    """Turns of a conversation, samples, an answer that is given up: as from a new engine."""
    engine = Engine(model, tokenizer, max_batch=3)
    prompt = [tokenizer.bos, *tokenizer.encode("The quick brown")]
    for turn in range(3):
        request = Request(prompt, 6, seed=turn, n=2)
        answers = engine.generate([request])
        assert [c.ids for c in answers] == [c.ids for c in Engine(model, tokenizer).generate([request])]
        next(engine.stream(Request(prompt, 9, temperature=2.0)))
        prompt = [*prompt, *answers[0].ids, *tokenizer.encode(" dog")]
