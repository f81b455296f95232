"""Log-probabilities of a prompt's own tokens: those of the plain model, whatever runs beside and however it is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.console import UserError
from nanochat.eval.core_model import CachedGPT, Group
from nanochat.inference import Completion, Engine, Request
from nanochat.inference.batch import SCORED
from nanochat.inference.runner import Chunk
from nanochat.inference.sampling import score
from nanochat.inference.torch_runner import TorchRunner
from nanochat.model import GPT
from nanochat.native import native
from tests.inference.conftest import random_model
from tests.inference.fakes import Hashed, Model, hashed

if TYPE_CHECKING:
    from nanochat.tokenizer import Tokenizer

each_way = pytest.mark.parametrize("way", ["native", "torch"])


@pytest.fixture
def by_torch(way: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    if way == "torch":
        monkeypatch.setattr("nanochat.inference.sampling.native", lambda: None)
    elif native() is None:
        pytest.skip("the native code is not built")
    return way == "torch"


@each_way
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 700), st.integers(0, 3), st.integers(0, 20), st.integers(0, 99))
def test_scores_are_those_in_float64(way: str, rows: int, size: int, padding: int, told: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, size + padding, generator=random) * 5
    logits[:, size:] += 20  # of no token
    if seed % 2:
        logits = logits.round()  # so that some are equal
    ids = torch.randint(0, size, (rows,), generator=random).tolist()
    exact = logits[:, :size].double().log_softmax(-1)
    with pytest.MonkeyPatch.context() as patch:
        if way == "torch":
            patch.setattr("nanochat.inference.sampling.native", lambda: None)
        scored = score(logits, ids, size, told)
    assert [one for one, _ in scored] == pytest.approx(exact[range(rows), ids].tolist(), abs=1e-5)
    for row, (_, likely) in enumerate(scored):
        order = sorted(range(size), key=lambda id: (-float(logits[row, id]), id))[:told]
        assert [id for id, _ in likely] == order
        assert [one for _, one in likely] == pytest.approx(exact[row, order].tolist(), abs=1e-5)


@each_way
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_no_numbers_have_no_scores(by_torch: bool, bad: float) -> None:
    logits = torch.randn(3, 50)
    logits[1, 7] = bad
    with pytest.raises(UserError, match="not finite"):
        score(logits, [1, 2, 3], 50, 2)


def exact(model: GPT, prompt: list[int]) -> Tensor:
    """(n - 1, V) log-probabilities after every id but the last, in float64."""
    double = GPT(model.config, torch.float64).to(torch.float64).eval()
    double.load_state_dict(model.state_dict())
    for mine, its in zip(double.layers, model.layers, strict=True):
        mine.attn.window = its.attn.window
    with torch.no_grad():
        return double(torch.tensor([prompt[:-1]]))[0].double()


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    texts = ["The dog", "How many letters are in strawberry?", "Grüße aus Köln: the dog does not mind", "a"]
    return [[tokenizer.bos, *tokenizer.encode(text)] for text in texts]


RUNNERS: dict[str, Callable[[GPT], TorchRunner | None]] = {"default": lambda model: None, "torch": TorchRunner}


@pytest.mark.parametrize("runner", RUNNERS.values(), ids=RUNNERS)
def test_an_engine_scores_as_the_model_in_float64(
    model: GPT, tokenizer: Tokenizer, runner: Callable[[GPT], TorchRunner | None]
) -> None:
    """Of the tokenizer's vocabulary: the model has three rows more. The answers are those without scores."""
    engine = Engine(model, tokenizer, runner=runner(model))
    asked = [Request(prompt, 5, seed=3, prompt_logprobs=2) for prompt in prompts(tokenizer)]
    plain = [Request(prompt, 5, seed=3) for prompt in prompts(tokenizer)]
    answers = engine.generate(asked)
    assert [c.ids for c in answers] == [c.ids for c in engine.generate(plain)]
    for request, answer in zip(asked, answers, strict=True):
        wanted = exact(model, request.prompt)[:, : tokenizer.vocab_size].log_softmax(-1)
        assert answer.prompt_logprobs is not None and answer.prompt_top is not None
        assert (answer.prompt_logprobs[0], answer.prompt_top[0]) == (None, ())
        own = wanted.gather(-1, torch.tensor(request.prompt[1:])[:, None])[:, 0].tolist()
        assert answer.prompt_logprobs[1:] == pytest.approx(own, abs=2e-4)
        for row, likely in zip(wanted, answer.prompt_top[1:], strict=True):
            assert [one for _, one in likely] == pytest.approx(row.topk(2).values.tolist(), abs=2e-4)
            assert [one for _, one in likely] == pytest.approx(row[[id for id, _ in likely]].tolist(), abs=2e-4)


def test_an_engine_scores_as_the_evaluations_do(model: GPT, tokenizer: Tokenizer) -> None:
    """CORE's way to a question's numbers: a common front, and tails."""
    front = [tokenizer.bos, *tokenizer.encode("The quick brown fox")]
    tails = [tokenizer.encode(text) for text in (" jumps over", " the dog")]
    group = Group(
        front[:-1], [[front[-1], *tail] for tail in tails], [(i, 0, len(tail)) for i, tail in enumerate(tails)]
    )
    logits = CachedGPT(model).answer_logits([group])[:, : tokenizer.vocab_size]
    wanted = logits.double().log_softmax(-1)[range(len(logits)), [id for tail in tails for id in tail]].tolist()
    asked = [Request([*front, *tail], 0, prompt_logprobs=0) for tail in tails]
    found = Engine(model, tokenizer).generate(asked)
    assert [one for c in found for one in (c.prompt_logprobs or [])[len(front) :]] == pytest.approx(wanted, abs=1e-4)


def test_scores_have_the_same_bits_alone_and_beside_others(tokenizer: Tokenizer) -> None:
    """On the native path. Beside prompts that begin alike and answers that have begun, cut anyhow."""
    model = random_model(tokenizer, 400, torch.bfloat16, "modern")
    text = tokenizer.encode("How many letters are in the word strawberry? There are ten letters. " * 9)[:300]
    asked = [Request([tokenizer.bos, *text[:length]], 3, prompt_logprobs=3) for length in (300, 290, 131, 5)]
    alone = [told(Engine(model, tokenizer).generate([request])[0]) for request in asked]
    engine = Engine(model, tokenizer)
    if engine.runner.name == "torch":
        pytest.skip("the native path promises this")
    beside = [engine.stream(Request([tokenizer.bos, *text[:length]], 90)) for length in (10, 299, 50)]
    for _ in range(2):
        assert [told(c) for c in engine.generate(asked)] == alone
    assert all(stream.error is None for stream in beside)


def told(completion: Completion) -> tuple[object, ...]:
    return completion.ids, completion.prompt_logprobs, completion.prompt_top


# How they are computed.


def test_a_prompt_is_computed_as_a_whole_and_once_for_all_samples(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, chunk=16)
    prompt = list(range(97, 137))
    engine.generate([Request(prompt, 1)])
    scored = Request(prompt, 1, n=4, prompt_logprobs=1)
    before = runner.computed
    answers = engine.generate([scored])
    assert runner.computed - before == 40 + 3
    assert len({str(answer.prompt_logprobs) for answer in answers}) == 1
    assert [len(answer.prompt_logprobs or []) for answer in answers] == [40] * 4
    before = runner.computed
    engine.generate([Request(prompt, 1)])
    assert runner.computed - before == 1  # others may use it


def test_others_get_their_tokens_meanwhile(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer, seq_len=200, chunk=10)
    beside = engine.stream(Request([97], 100, stop=["never"]))
    engine.step()
    scored = engine.stream(Request([98] * 95, 0, prompt_logprobs=0))
    assert scored.finished() == []
    for _ in range(2, 12):
        assert not scored.done
        engine.step()
    assert scored.done and scored.take() == []
    [completion] = scored.finished()
    assert (completion.ids, completion.finish, len(completion.prompt_logprobs or [])) == ([], "length", 95)
    assert len(beside._generations[0].ids) >= 11
    assert runner.largest == 10


@pytest.mark.parametrize("length", [1, 2, 3, 17, 63, 64])
@pytest.mark.parametrize("n", [1, 3])
def test_nothing_need_be_generated(tokenizer: Tokenizer, length: int, n: int) -> None:
    """Up to the whole window. The last token is not computed."""
    engine, runner = hashed(tokenizer)
    prompt = ([97, 98, 99] * 30)[:length]
    answers = engine.generate([Request(prompt, 0, n=n, prompt_logprobs=0, logprobs=1)])
    assert [(c.ids, c.text, c.finish, c.sample) for c in answers] == [([], "", "length", i) for i in range(n)]
    assert runner.computed == length - 1
    wanted = [float(runner.logits(prompt[:end]).double().log_softmax(-1)[prompt[end]]) for end in range(1, length)]
    for answer in answers:
        assert answer.prompt_logprobs == [None, *(pytest.approx(one, abs=1e-5) for one in wanted)]
        assert answer.prompt_top == [()] + [[]] * (length - 1)
    stream = engine.stream(Request(prompt, 0, n=n, prompt_logprobs=0, logprobs=1))
    assert list(stream) == []
    assert stream.finished() == answers


def test_prompts_that_do_not_fit_are_refused(tokenizer: Tokenizer) -> None:
    """They are not cut: there would be numbers for some of the tokens only."""
    engine, _ = hashed(tokenizer)
    engine.generate([Request([97] * 63, 9, prompt_logprobs=0), Request([97] * 64, 0, prompt_logprobs=0)])
    for length, most in ((64, 9), (65, 0), (500, 0)):
        with pytest.raises(UserError, match=f"the prompt has {length} tokens"):
            engine.generate([Request([97] * length, most, prompt_logprobs=0)])
    with pytest.raises(UserError, match="max_tokens"):
        Request([97], 0)


def test_weights_that_change_meanwhile_count_from_the_beginning(tokenizer: Tokenizer) -> None:
    engine, runner = hashed(tokenizer)
    request = Request(list(range(97, 137)), 2, prompt_logprobs=2, temperature=0.0)
    stream = engine.stream(request)
    engine.step()
    engine.step()
    with torch.no_grad():
        runner.model.weight.add_(1)
    [other] = engine.generate([Request([97], 1)])
    list(stream)
    assert [told(c) for c in stream.finished()] == [told(c) for c in engine.generate([request])]
    assert other.prompt_logprobs is None and other.prompt_top is None


def test_a_prompt_with_bad_numbers_ends_alone(tokenizer: Tokenizer) -> None:
    class Poisoned(Hashed):
        def logits(self, ids: list[int]) -> Tensor:
            return super().logits(ids) * (torch.nan if ids[:2] == [99, 100] else 1)

    model = Model(tokenizer.vocab_size)
    engine = Engine(model, tokenizer, runner=Poisoned(model))  # type: ignore[arg-type]
    beside = engine.stream(Request([97, 98], 30, stop=["never"]))
    for most in (0, 5):
        bad = engine.stream(Request([99, 100, *[101] * 30], most, prompt_logprobs=0, n=2))
        with pytest.raises(UserError, match="not finite"):
            next(bad)
        assert bad.finished() == []
    assert beside.error is None and len(list(beside)) > 5


def test_few_logits_are_held_at_once(tokenizer: Tokenizer) -> None:
    class Counting(Hashed):
        most = 0

        def step(self, chunks: Sequence[Chunk]) -> Tensor:
            logits = super().step(chunks)
            self.most = max(self.most, len(logits))
            return logits

    model = Model(tokenizer.vocab_size, 3000)
    runner = Counting(model, chunk=2048)
    engine = Engine(model, tokenizer, runner=runner)  # type: ignore[arg-type]
    engine.generate([Request([97] * 700, 0, prompt_logprobs=0), Request([98] * 40, 1)])
    assert runner.most == SCORED + 1
