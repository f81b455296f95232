"""Both choosers against a slow one of plain numbers, and what they promise about ties, rows and broken logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat.console import UserError
from nanochat.inference.sampling import Choice, Draw, choose, choose_by_torch, generator
from nanochat.native import native
from tests.inference.test_torch_runner import Reads

Chooser = Callable[[Tensor, Sequence[Draw]], list[Choice]]
NATIVE = pytest.param(choose, id="native", marks=pytest.mark.skipif(native() is None, reason="no native module"))
each_chooser = pytest.mark.parametrize("chooser", [pytest.param(choose_by_torch, id="torch"), NATIVE])
NEARLY = 1e-6  # of the sum of all weights: what rounding may decide
LARGEST = float(np.finfo(np.float32).max)


def draw(vocab: int, **changes: object) -> Draw:
    """The plainest draw from so many tokens, but for some changes."""
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "seen": ()}
    return Draw(**{**plain, "penalties": torch.zeros(vocab), "uniform": 0.5, **changes})


def after_penalties(row: Tensor, draw: Draw) -> list[float]:
    values = row.tolist()
    for id in set(draw.seen) if draw.repetition_penalty != 1 else ():
        value = values[id] / draw.repetition_penalty if values[id] > 0 else values[id] * draw.repetition_penalty
        values[id] = float(np.float32(max(-LARGEST, min(LARGEST, value)))) if math.isfinite(value) else value
    return [value + penalty for value, penalty in zip(values, draw.penalties.tolist(), strict=True)]


def possible(row: Tensor, draw: Draw) -> set[int]:
    """Ids that may be chosen. More than one only where a place or a share is within rounding of a border."""
    values = after_penalties(row, draw)
    order = sorted((id for id, value in enumerate(values) if value > -math.inf), key=lambda id: (-values[id], id))
    if draw.temperature == 0:
        return set(order[:1])
    most = values[order[0]]
    order = order[: draw.top_k or None]
    weights = {id: math.exp((values[id] - most) / draw.temperature) for id in order}
    whole = math.fsum(weights.values())
    counts = {len(order)}
    if draw.top_p < 1:
        likelier, sum = [], 0.0
        for id in order:
            likelier.append(sum)
            sum += weights[id]
        borders = [draw.top_p * whole + by * whole for by in (-NEARLY, NEARLY)]
        fewest, most_of_all = (max(1, len([before for before in likelier if before < border])) for border in borders)
        counts = {fewest, max(fewest, most_of_all - 1), most_of_all}
    found = set()
    for count in counts:
        floor = most + draw.temperature * math.log(draw.min_p) if draw.min_p else -math.inf
        kept = sorted(id for id in order[:count] if values[id] >= floor)
        total = math.fsum(weights[id] for id in kept)
        sum, room = 0.0, 4 * NEARLY * whole
        for id in kept:
            if sum - room <= draw.uniform * total <= sum + weights[id] + room:
                found.add(id)
            sum += weights[id]
    return found


def check(chooser: Chooser, rows: Tensor, draws: Sequence[Draw]) -> None:
    able = [
        any(value > -math.inf for value in after_penalties(row, draw)) for row, draw in zip(rows, draws, strict=True)
    ]
    if not all(able):
        with pytest.raises(UserError, match="not finite"):
            chooser(rows, draws)
        return
    for row, draw, choice in zip(rows, draws, chooser(rows, draws), strict=True):
        assert choice.id in possible(row, draw)
        if draw.logprobs is None:
            assert choice == Choice(choice.id)
            continue
        own = row + draw.penalties
        logprobs = own.double().log_softmax(-1).tolist()
        assert choice.logprob == pytest.approx(logprobs[choice.id], rel=1e-6, abs=1e-6)
        likely = sorted((id for id in range(len(own)) if own[id] > -math.inf), key=lambda id: (-own[id].item(), id))
        assert [id for id, _ in choice.top] == likely[: draw.logprobs]
        assert [logprob for _, logprob in choice.top] == pytest.approx(
            [logprobs[id] for id in likely[: draw.logprobs]], rel=1e-6, abs=1e-6
        )


LOGITS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.0, 20.0, -math.inf, LARGEST, -LARGEST, 1e-45]),
    st.floats(-30, 30, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@st.composite
def any_draws(data: st.DrawFn, vocab: int, logits: Tensor) -> list[Draw]:
    def one() -> Draw:
        forbidden = data(st.lists(st.integers(0, vocab - 1), max_size=3))
        penalties = torch.zeros(vocab)
        penalties[forbidden] = -math.inf
        return Draw(
            temperature=data(st.one_of(st.sampled_from([0.0, 1e-6, 0.7, 1.0, 1e6]), st.floats(0.01, 10))),
            top_k=data(st.one_of(st.sampled_from([0, 0, 1, 50, vocab, vocab + 1]), st.integers(0, vocab))),
            top_p=data(st.one_of(st.sampled_from([1.0, 1.0, 0.9, 1e-9, 1 - 1e-9]), st.floats(1e-9, 1))),
            min_p=data(st.one_of(st.sampled_from([0.0, 0.0, 0.05, 1.0]), st.floats(0, 1))),
            repetition_penalty=data(st.one_of(st.sampled_from([1.0, 1.2]), st.floats(0.5, 2))),
            seen=data(st.lists(st.integers(0, vocab - 1), max_size=8)),
            penalties=penalties,
            uniform=data(st.one_of(st.sampled_from([0.0, 1 - 2**-53]), st.floats(0, 1, exclude_max=True))),
            logprobs=data(st.sampled_from([None, None, 0, 3, 20])),
        )

    return [one() for _ in logits]


@each_chooser
@settings(max_examples=100, deadline=None)
@given(data=st.data(), rows=st.integers(1, 3), vocab=st.integers(1, 80))
def test_any_logits_and_settings(chooser: Chooser, data: st.DataObject, rows: int, vocab: int) -> None:
    few = data.draw(st.lists(LOGITS, min_size=1, max_size=12))
    at = data.draw(st.lists(st.integers(0, len(few) - 1), min_size=rows * vocab, max_size=rows * vocab))
    logits = torch.tensor([few[i] for i in at]).view(rows, vocab)
    check(chooser, logits, data.draw(any_draws(vocab, logits)))


@each_chooser
@settings(max_examples=30, deadline=None)
@given(
    data=st.data(), vocab=st.sampled_from([127, 2048, 8193, 9001]), seed=st.integers(0, 2**32),
    spread=st.sampled_from([1e-3, 0.1, 1.0, 4.0, 30.0]), step=st.sampled_from([0.0, 0.0, 0.5, 5.0]),
)  # fmt: skip
def test_large_vocabularies(
    chooser: Chooser, data: st.DataObject, vocab: int, seed: int, spread: float, step: float
) -> None:
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(seed)) * spread
    logits = (logits / step).round() * step if step else logits  # many equal values
    check(chooser, logits, data.draw(any_draws(vocab, logits)))


@each_chooser
@given(uniform=st.floats(0, 1, exclude_max=True))
@example(uniform=0.0)
@example(uniform=1 - 2**-53)
def test_of_equal_values_the_smaller_ids_stay(chooser: Chooser, uniform: float) -> None:
    logits = torch.zeros(1, 9000)
    logits[0, [5, 7, 4000]] = 1.0
    for top_k, stay in ((1, {5}), (2, {5, 7}), (5, {5, 7, 4000, 0, 1})):
        assert chooser(logits, [draw(9000, top_k=top_k, uniform=uniform)])[0].id in stay
    # Five of the equal ones and a half: six stay. The first three weigh e each.
    share = (3 * math.e + 5.5) / (3 * math.e + 8997)
    assert chooser(logits, [draw(9000, top_p=share, uniform=uniform)])[0].id in {5, 7, 4000, 0, 1, 2, 3, 4, 6}
    assert chooser(logits, [draw(9000, temperature=0.0, uniform=uniform)])[0].id == 5


@each_chooser
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [0.4, 0.1, 0.2, 0.3]),
        ({"top_k": 3}, [4 / 9, 0, 2 / 9, 3 / 9]),
        ({"top_p": 0.65}, [4 / 7, 0, 0, 3 / 7]),
        ({"top_p": 0.75}, [4 / 9, 0, 2 / 9, 3 / 9]),
        ({"min_p": 0.4}, [4 / 9, 0, 2 / 9, 3 / 9]),
        ({"min_p": 0.6}, [4 / 7, 0, 0, 3 / 7]),
        ({"top_k": 3, "top_p": 0.75}, [4 / 7, 0, 0, 3 / 7]),  # 0.75 of the three
        ({"top_p": 0.95, "min_p": 0.6}, [4 / 7, 0, 0, 3 / 7]),
        ({"temperature": 0.5}, [16 / 30, 1 / 30, 4 / 30, 9 / 30]),
        # Logits of these probabilities are negative: the penalty doubles them, so each probability is squared.
        ({"repetition_penalty": 2.0, "seen": [0, 0, 3]}, [16 / 55, 10 / 55, 20 / 55, 9 / 55]),
    ],
    ids=str,
)
def test_frequencies_are_the_probabilities(chooser: Chooser, changes: dict, expected: list[float]) -> None:
    n = 6_000
    logits = torch.log(torch.tensor([0.4, 0.1, 0.2, 0.3])).expand(n, 4)
    uniforms = torch.rand(n, generator=generator(0, 0)).tolist()
    penalties = torch.zeros(4)
    ids = [
        choice.id for choice in chooser(logits, [draw(4, penalties=penalties, uniform=u, **changes) for u in uniforms])
    ]
    found = torch.bincount(torch.tensor(ids), minlength=4).double()
    wanted = torch.tensor(expected, dtype=torch.float64) * n
    assert not found[wanted == 0].any()
    some = wanted > 0
    assert ((found - wanted)[some] ** 2 / wanted[some]).sum() < 16.3  # chi-square, 3 degrees of freedom, 0.001


@each_chooser
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("vocab", [5, 64, 9001])
def test_broken_logits_are_named(chooser: Chooser, bad: float, vocab: int) -> None:
    for at in (0, vocab // 2, vocab - 1):
        for extra in ({}, {"temperature": 0.0}, {"top_k": 2, "repetition_penalty": 1.1, "seen": [at]}):
            logits = torch.zeros(3, vocab)
            logits[1, at] = bad
            with pytest.raises(UserError, match="not finite"):
                chooser(logits, [draw(vocab, **extra)] * 3)


@each_chooser
def test_what_may_not_come_never_comes(chooser: Chooser) -> None:
    random = torch.Generator().manual_seed(0)
    penalties = torch.tensor([-math.inf, 0, -math.inf, 0, -math.inf])
    for uniform in (0.0, 0.5, 1 - 2**-53):
        for extra in ({}, {"top_k": 2}, {"top_k": 4}, {"top_p": 0.99}, {"min_p": 1e-9}, {"temperature": 0.0}):
            draws = [draw(5, penalties=penalties, uniform=uniform, logprobs=5, **extra)] * 50
            for choice in chooser(torch.randn(50, 5, generator=random), draws):
                assert choice.id in (1, 3) and sorted(id for id, _ in choice.top) == [1, 3]
    with pytest.raises(UserError, match="not finite"):
        chooser(torch.zeros(1, 5), [draw(5, penalties=torch.full((5,), -math.inf))])


def mixed_rows() -> tuple[Tensor, list[Draw]]:
    """32 rows, each with other settings."""
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(32, 3000, generator=random) * 3
    draws = [
        draw(
            3000, temperature=i % 3 * 0.6, top_k=(0, 5, 50, 3000)[i % 4], top_p=(1.0, 0.8)[i // 4 % 2], logprobs=i % 5,
            min_p=(0.0, 0.01)[i // 8 % 2], repetition_penalty=(1.0, 1.3)[i // 16], seen=range(i), uniform=i / 32,
        )
        for i in range(32)
    ]  # fmt: skip
    return logits, draws


@each_chooser
def test_a_row_is_chosen_alike_alone_and_among_others(chooser: Chooser) -> None:
    logits, draws = mixed_rows()
    together = chooser(logits, draws)
    assert [chooser(logits[i : i + 1], [draws[i]])[0] for i in range(32)] == together
    assert [choice.id for choice in together] == [choice.id for choice in choose_by_torch(logits, draws)]


def test_the_host_waits_once() -> None:
    logits, draws = mixed_rows()
    with Reads() as reads:
        choose_by_torch(logits, draws)
    assert reads.seen == []  # the result itself, which is read as a whole, is not counted


@pytest.mark.cuda
def test_a_gpu_chooses_alike_and_is_waited_for_once() -> None:
    logits, draws = mixed_rows()
    wanted = [choice.id for choice in choose_by_torch(logits, draws)]
    there = [replace(draw, penalties=draw.penalties.cuda()) for draw in draws]
    logits = logits.cuda()
    assert [choice.id for choice in choose(logits, there)] == wanted
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as warned:
            choose(logits, there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in warned if "synchronizing" in str(w.message)]) == 1


def test_other_types_of_logits_are_taken() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(2)).bfloat16()
    draws = [draw(300, top_k=50, uniform=i / 4) for i in range(4)]
    wanted = choose(logits.float(), draws)
    assert choose(logits, draws) == choose(logits.double(), draws) == wanted
    assert choose(logits.float().T.contiguous().T, draws) == wanted  # not contiguous


@each_chooser
def test_mistakes_of_the_caller_raise(chooser: Chooser) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        chooser(torch.zeros(2, 5), [draw(4), draw(5)])
    with pytest.raises((ValueError, RuntimeError)):
        chooser(torch.zeros(2, 5), [draw(5)])
    with pytest.raises(IndexError):
        chooser(torch.zeros(1, 5), [draw(5, repetition_penalty=2.0, seen=[5])])


def test_generators_depend_on_seed_and_sample_only() -> None:
    def first(seed: int, sample: int) -> float:
        return torch.rand((), generator=generator(seed, sample)).item()

    assert first(1, 2) == first(1, 2)
    assert len({first(seed, sample) for seed in range(-3, 20) for sample in range(20)}) == 23 * 20
