"""Batched, cached, sampled: the same answers as one by one over full forwards."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from nanochat.console import UserError
from nanochat.inference import Engine, Request
from nanochat.inference.generation import Generation
from nanochat.inference.toolcalls import Grammar

if TYPE_CHECKING:
    from nanochat.model import GPT
    from nanochat.tokenizer import Tokenizer


def requests(tokenizer: Tokenizer, **settings: object) -> list[Request]:
    texts = ["The", "How many letters", "12 + 30", "Grüße aus Köln: the dog does not mind", "a"]
    prompts = [[tokenizer.bos, *tokenizer.encode(text)] for text in texts]
    return [
        Request(prompt, max_tokens=5 + 4 * place, seed=place, **settings)  # type: ignore[arg-type]
        for place, prompt in enumerate(prompts)
    ]


def greedy_by_full_forward(model: GPT, tokenizer: Tokenizer, request: Request) -> list[int]:
    """Argmax over a full forward for every token; what may come next is the tool grammar's business."""
    grammar = Grammar(tokenizer)
    penalties = grammar.penalties(model.config.vocab_size, model.device)
    generation = Generation(request, 0, 0, request.max_tokens, tokenizer, grammar, penalties)
    with torch.no_grad():
        while generation.open:
            logits = model(torch.tensor([generation.sequence]))[0, -1] + penalties[generation.kind]
            generation.push(int(logits.argmax()))
    return generation.ids


def test_cached_is_the_argmax_of_full_forwards(engine: Engine, tokenizer: Tokenizer) -> None:
    asked = requests(tokenizer, temperature=0.0)
    answers = [completion.ids for completion in engine.generate(asked)]
    assert answers == [greedy_by_full_forward(engine.model, tokenizer, request) for request in asked]
    assert len({tuple(answer) for answer in answers}) > 1 and max(map(len, answers)) > 5


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 0}])
@pytest.mark.parametrize("max_batch", [1, 2, 3, 32])
def test_batched_is_one_by_one(model: GPT, tokenizer: Tokenizer, settings: dict[str, float], max_batch: int) -> None:
    """Rows of different lengths, more requests than rows, several samples each."""
    wanted = requests(tokenizer, n=2, **settings)
    alone = [c.ids for request in wanted for c in Engine(model, tokenizer).generate([request])]
    together = Engine(model, tokenizer, max_batch).generate(wanted)
    assert [c.ids for c in together] == alone
    assert [(c.request, c.sample) for c in together] == [(r, s) for r in range(len(wanted)) for s in range(2)]
    assert len({len(ids) for ids in alone}) > 1


def test_rows_that_stop_are_taken_over(model: GPT, tokenizer: Tokenizer) -> None:
    """Hot enough for answers to end at any time, and for tool blocks to open."""
    wanted = requests(tokenizer, n=6, temperature=100.0, top_k=None)
    together = Engine(model, tokenizer, max_batch=4).generate(wanted)
    assert [c.ids for c in together] == [
        c.ids for request in wanted for c in Engine(model, tokenizer).generate([request])
    ]
    assert {c.finish for c in together} == {"stop", "length"}
    assert any(part.type == "python" for c in together for part in c.parts)


def test_mixed_settings_in_one_batch(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = [tokenizer.bos, *tokenizer.encode("The dog")]
    wanted = [
        Request(prompt, max_tokens=12, temperature=0.0),
        Request(prompt, max_tokens=12, temperature=1.5, top_k=None, seed=3),
        Request(prompt, max_tokens=12, temperature=0.8, top_k=5, seed=3),
        Request(prompt, max_tokens=12, temperature=1.5, top_k=1, seed=9),
    ]
    together = [c.ids for c in engine.generate(wanted)]
    assert together == [engine.generate([request])[0].ids for request in wanted]
    assert together[3] == together[0]  # the best of one is greedy
    assert together[1] != together[0]


def test_samples_differ_and_repeat(engine: Engine, tokenizer: Tokenizer) -> None:
    request = Request([tokenizer.bos, *tokenizer.encode("The")], max_tokens=10, n=4, seed=5, temperature=1.0)
    first = [c.ids for c in engine.generate([request])]
    assert first == [c.ids for c in engine.generate([request])]
    assert len({tuple(ids) for ids in first}) > 1


def test_stream_is_generate(engine: Engine, tokenizer: Tokenizer) -> None:
    request = Request([tokenizer.bos, *tokenizer.encode("How")], max_tokens=30, n=3, temperature=1.3, seed=1)
    tokens = list(engine.stream(request))
    for completion in engine.generate([request]):
        mine = [token for token in tokens if token.sample == completion.sample]
        assert [token.id for token in mine] == completion.ids
        assert "".join(token.text for token in mine if token.kind == "text") == completion.text


def test_special_tokens_and_padding_are_never_sampled(tokenizer: Tokenizer, model: GPT) -> None:
    engine = Engine(model, tokenizer)
    request = Request([tokenizer.bos], max_tokens=60, n=32, temperature=50.0, top_k=None)
    grammar = engine.grammar
    seen = {id for completion in engine.generate([request]) for id in completion.ids}
    allowed = {grammar.python_start, grammar.python_end, grammar.output_start, grammar.output_end}
    assert {id for id in seen if id >= len(tokenizer.ranks)} <= allowed
    assert len(seen) > 100


def test_prompt_longer_than_the_window(engine: Engine, tokenizer: Tokenizer) -> None:
    long = [tokenizer.bos, *tokenizer.encode("the quick brown fox " * 40)]
    assert len(long) > engine.window
    completion = engine.generate([Request(long, max_tokens=500, temperature=0.0)])[0]
    kept = [tokenizer.bos, *long[-(engine.window - engine.window // 4 - 1) :]]
    assert completion.ids == engine.generate([Request(kept, max_tokens=500, temperature=0.0)])[0].ids


@pytest.mark.parametrize("short", [0, 1, 2, 3])
def test_the_answer_ends_with_the_window(engine: Engine, tokenizer: Tokenizer, short: int) -> None:
    prompt = [tokenizer.bos, *tokenizer.encode("a b" * 100)][: engine.window - short]
    for completion in engine.generate([Request(prompt, max_tokens=100, n=3)]):
        assert completion.finish == "stop" or len(completion.ids) == (short or engine.window // 4)


def test_fresh_seed_of_each_sample_is_independent_of_n(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = [tokenizer.bos, *tokenizer.encode("dog")]
    two = engine.generate([Request(prompt, n=2, max_tokens=9)])
    five = engine.generate([Request(prompt, n=5, max_tokens=9)])
    assert [c.ids for c in two] == [c.ids for c in five][:2]


def test_nothing_asked(engine: Engine) -> None:
    assert engine.generate([]) == []


BAD: dict[str, list[object]] = {
    "prompt": [[], None, 1, "a word", [1.0], ["a"], [None]],
    "max_tokens": [0, -5, None, "5", 2.5, math.inf],
    "temperature": [-0.1, math.nan, math.inf, None, "1", [1.0], 10**400],
    "top_k": [-1, 2.5, "5", math.inf],
    "seed": [None, "1", 0.5],
    "n": [0, 2.5, None],
    "top_p": [0, 0.0, -0.1, 1.01, math.nan, math.inf, None, "1"],
    "min_p": [-0.1, 1.01, math.nan, math.inf, None],
    "repetition_penalty": [0, -1.0, math.nan, math.inf, None, 10**400],
    "stop": ["a word", [""], ["a", 1], None, 1, b"a", iter(["a"])],
    "logprobs": [-1, 21, 2.5, "1"],
    "prompt_logprobs": [-1, 21, 2.5, "1"],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises(UserError, match=name) as caught:
            Request(**{"prompt": [1], name: value})  # type: ignore[arg-type]
        assert caught.value.remedy


def test_extreme_settings(engine: Engine, tokenizer: Tokenizer) -> None:
    prompt = [tokenizer.bos, *tokenizer.encode("The dog")]
    best = engine.generate([Request(prompt, 9, temperature=0.0)])[0].ids
    for settings in (
        {"min_p": 1.0},
        {"top_p": 1e-9},
        {"temperature": 1e-6},
        {"top_k": 1, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.0, "logprobs": 20},
    ):
        assert engine.generate([Request(prompt, 9, **settings)])[0].ids == best  # type: ignore[arg-type]
    assert engine.generate([Request(prompt, 9, temperature=1e6, top_k=10**6, repetition_penalty=1e6)])
    huge = engine.generate([Request(prompt, 9, top_k=10**30, seed=10**30)])
    assert [c.ids for c in huge] == [c.ids for c in engine.generate([Request(prompt, 9, top_k=0, seed=10**30)])]


def test_what_was_said_comes_less_often(tokenizer: Tokenizer, engine: Engine) -> None:
    """Of the prompt and of the answer itself."""
    prompt = [tokenizer.bos, *tokenizer.encode("The")]
    plain, varied = (
        engine.generate([Request(prompt, 40, temperature=0.0, repetition_penalty=by)])[0].ids for by in (1.0, 1e9)
    )
    assert len(plain) > len(set(plain))
    assert len(varied) == len(set(varied))
    assert not set(varied) & set(prompt)


def test_ids_outside_the_vocabulary(engine: Engine, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="id"):
        engine.generate([Request([tokenizer.bos, tokenizer.vocab_size])])


def test_a_tokenizer_larger_than_the_model(model: GPT) -> None:
    from nanochat.tokenizer import Tokenizer, train_bpe

    larger = Tokenizer(train_bpe(["some words and some other words, and more and more of them: " * 9], 310))
    larger = Tokenizer({**larger.ranks, **{b"\xff" * (9 + i): len(larger.ranks) + i for i in range(50)}})
    with pytest.raises(UserError, match="tokenizer"):
        Engine(model, larger)
