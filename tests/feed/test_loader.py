"""Packing: nothing lost, whole documents, the same stream for any number of ranks, exact resume."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.feed.loader import AHEAD, STREAMS, Loader, merge_states
from nanochat.feed.packing import BUFFER, REFILL, Example, Stream
from nanochat.machine import Ranks

BOS = 0
WIDTH = 1000  # token j of document i is i * WIDTH + j, so that every token tells where it is from


class Numbers:
    """Documents of lengths that depend on their number; `masked`: only the second half of each carries loss."""

    def __init__(self, n: int = 50, longest: int = 40, masked: bool = False):
        self.n, self.longest, self.masked = n, longest, masked

    def __len__(self) -> int:
        return self.n

    def tokens(self, index: int) -> list[int]:
        return [index * WIDTH + place for place in range(1, 2 + index * 7 % self.longest)]

    def get(self, indices: list[int]) -> list[Example]:
        out = []
        for i in indices:
            ids = np.array([BOS, *self.tokens(i)], np.uint32)
            out.append(Example(ids, np.arange(len(ids)) >= len(ids) // 2 if self.masked else None))
        return out


def take(loader: Loader, steps: int) -> list:
    stream = iter(loader)
    out = [next(stream) for _ in range(steps)]
    stream.close()
    return out


def rows_of(steps: list) -> list[list[tuple[list[int], list[int]]]]:
    return [[(i, t) for b in s.micro for i, t in zip(b.ids.tolist(), b.targets.tolist(), strict=True)] for s in steps]


def pieces(ids: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where the <bos> of each piece of a row is, and where the piece ends."""
    return itertools.pairwise([*np.flatnonzero(ids == BOS).tolist(), len(ids)])


many = settings(deadline=None, max_examples=60)
sizes = {"n": st.integers(1, 80), "longest": st.integers(1, 120), "row": st.integers(2, 50)}


@many
@given(**sizes)
def test_every_token_comes_once_an_epoch_and_every_position_is_used(n: int, longest: int, row: int) -> None:
    source = Numbers(n, longest)
    stream = Stream(source, 0, 1, row, crop=True)
    seen: Counter[int] = Counter()
    for _ in range(30):
        ids, mask = stream.next_row()
        assert mask.all()
        assert len(ids) == row
        seen.update(ids.tolist())
    state = stream.state()
    begun = dict(state["docs"])
    due: Counter[int] = Counter()
    for number in range(state["next"]):
        tokens = source.tokens(number % n)
        used = tokens[: begun[number] - 1] if number in begun else tokens
        due.update(used)
        due[BOS] += -(-len(used) // (row - 1))
    assert due <= seen
    assert (seen - due).total() == state["repeated"]


@many
@given(**sizes)
def test_documents_are_cut_only_where_a_row_ends(n: int, longest: int, row: int) -> None:
    """So <bos> never follows a text that goes on, and a document that fits in a row comes whole: in the next row."""
    source = Numbers(n, longest)
    stream = Stream(source, 0, 1, row, crop=True)
    cut: list[int] = []
    for _ in range(30):
        ids, _ = stream.next_row()
        assert ids[: len(cut) or 1].tolist() == (cut or [BOS])
        for start, end in pieces(ids):
            cut = ids[start:end].tolist()
            if end - start > 1:
                tokens = source.tokens(cut[1] // WIDTH)
                place = tokens.index(cut[1])
                assert place % (row - 1) == 0
                assert cut[1:] == tokens[place : place + end - start - 1]
                if cut[-1] == tokens[-1] or end - start == row:
                    cut = []
            assert not cut or end == row


def test_little_is_repeated() -> None:
    stream = Stream(Numbers(900, 700), 0, 1, 257, crop=True)
    for _ in range(400):
        stream.next_row()
    assert 0 < stream.repeated < 0.01 * 400 * 257


@many
@given(n=st.integers(1, 80), longest=st.integers(1, 40))
def test_conversations_stay_whole_and_padding_carries_no_loss(n: int, longest: int) -> None:
    source, row = Numbers(n, longest, masked=True), 48
    stream = Stream(source, 0, 1, row, crop=False)
    for _ in range(20):
        ids, mask = stream.next_row()
        for start, end in pieces(ids):
            if end - start == 1:  # padding
                assert not mask[start]
                continue
            [doc] = source.get([int(ids[start + 1]) // WIDTH])
            assert ids[start:end].tolist() == doc.ids.tolist()
            assert doc.mask is not None
            assert (mask[start:end] == doc.mask).all()
    assert stream.repeated == 0


def test_the_mask_of_a_long_document_is_cut_like_its_ids() -> None:
    source = Numbers(30, 200, masked=True)
    stream = Stream(source, 0, 1, 48, crop=True)
    for _ in range(60):
        ids, mask = stream.next_row()
        for token, carries in zip(ids.tolist(), mask.tolist(), strict=True):
            length = 1 + len(source.tokens(token // WIDTH))
            assert carries == (token != BOS and token % WIDTH >= length // 2)


@pytest.mark.parametrize("masked", [False, True])
def test_targets_are_the_next_ids_where_the_mask_allows(masked: bool) -> None:
    for step in take(Loader(Numbers(masked=masked), 47, 8, 4, Ranks(), crop=not masked), 3):
        for b in step.micro:
            assert b.ids.shape == b.targets.shape == (4, 47)
            assert b.ids.dtype == b.targets.dtype == torch.int64
            assert torch.equal(b.targets[:, :-1][b.targets[:, :-1] >= 0], b.ids[:, 1:][b.targets[:, :-1] >= 0])
        assert step.valid == sum(int((b.targets >= 0).sum()) for b in step.micro)
        assert (step.valid == 8 * 47) is not masked


def test_streams_take_turns() -> None:
    rows = [ids for step in rows_of(take(Loader(Numbers(), 31, 12, 4, Ranks(), True), 5)) for ids, _ in step]
    streams = [Stream(Numbers(), place, STREAMS, 32, crop=True) for place in range(STREAMS)]
    assert rows == [streams[n % STREAMS].next_row()[0][:-1].tolist() for n in range(60)]


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("world", [2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64])
def test_ranks_together_see_what_one_rank_sees(world: int, crop: bool) -> None:
    rows = math.lcm(world, 8)

    def steps(r: Ranks) -> list:
        loader = Loader(Numbers(longest=30), 31, rows, 1, r, crop)
        if r.world > 1:
            assert len(loader._streams) == {2: 8, 6: 8, 4: 4, 12: 4, 8: 2, 24: 2, 3: 16, 5: 16}.get(world, 1)
        return rows_of(take(loader, 6))

    alone = steps(Ranks())
    parts = [steps(Ranks(rank=r, world=world)) for r in range(world)]
    for n, step in enumerate(alone):
        assert step == [parts[row % world][n][row // world] for row in range(rows)]


@settings(deadline=None, max_examples=40)
@given(
    after=st.integers(1, 9),
    before_world=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]),
    after_world=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]),
    n=st.integers(1, 60),
    longest=st.integers(1, 120),
    crop=st.booleans(),
    short=st.integers(0, 6),
)
def test_resuming_yields_the_batches_of_an_uninterrupted_run(
    after: int, before_world: int, after_world: int, n: int, longest: int, crop: bool, short: int
) -> None:
    """Also into later epochs: 16 streams of up to 96 documents run through 60 in a moment."""

    def loader(rank: int, world: int, state: dict | None) -> Loader:
        source = Numbers(n, longest if crop else 15)
        return Loader(source, 32, 24, 1, Ranks(rank=rank, world=world), crop, state, short=short)

    whole = rows_of(take(loader(0, 1, None), after + 3))
    states = [take(loader(r, before_world, None), after)[-1].state for r in range(before_world)]
    state = json.loads(json.dumps(merge_states(states)))
    parts = [rows_of(take(loader(r, after_world, state), 3)) for r in range(after_world)]
    for step in range(3):
        rows = 48 if after + step < short else 24
        assert whole[after + step] == [parts[row % after_world][step][row // after_world] for row in range(rows)]


def test_the_first_steps_may_have_more_and_shorter_sequences() -> None:
    steps = take(Loader(Numbers(), 32, 8, 3, Ranks(), True, short=2), 4)
    shapes = [[tuple(batch.ids.shape) for batch in step.micro] for step in steps]
    assert shapes == 2 * [[(6, 16), (6, 16), (4, 16)]] + 2 * [[(3, 32), (3, 32), (2, 32)]]
    for step in steps:  # every sequence begins with a document
        assert all((batch.ids[:, 0] == BOS).all() for batch in step.micro)


def test_fewer_steps_than_planned_have_fewer_short_ones() -> None:
    """On every rank from the same step on, however many it had made in advance."""
    for made, short in ((0, 20), (AHEAD + 2, 20), (0, 8)):
        loader = Loader(Numbers(), 32, 8, 8, Ranks(), True, short=short)
        steps = [loader._make() for _ in range(made)]
        assert loader.shorten(0, 10) == min(short, 10)
        assert loader.shorten(0, 3) == AHEAD + 2
        assert loader.shorten(1, 3) == AHEAD + 2  # what is left stays
        steps += [loader._make() for _ in range(made, 12)]
        assert [step.micro[0].ids.shape[1] for step in steps] == [16] * (AHEAD + 2) + [32] * (12 - AHEAD - 2)


def test_a_resumed_run_can_be_saved_and_resumed_again() -> None:
    state, rows = None, []
    for _ in range(6):
        [step] = take(Loader(Numbers(70, 90), 31, 8, 1, Ranks(), True, state), 1)
        state = step.state
        rows += rows_of([step])
    assert rows == rows_of(take(Loader(Numbers(70, 90), 31, 8, 1, Ranks(), True), 6))


@pytest.mark.parametrize("longest", [30, 900])
def test_the_state_stays_small(longest: int) -> None:
    steps = take(Loader(Numbers(2000, longest), 31, 64, 64, Ranks(), True), 40)
    for step in steps:
        docs = [doc for stream in step.state["streams"].values() for doc in stream["docs"]]
        assert len(docs) <= STREAMS * (BUFFER + REFILL)
        assert all(len(doc) == 2 for doc in docs)
    assert len(json.dumps(steps[-1].state)) < 32_000


def test_the_last_forward_pass_may_have_fewer_sequences() -> None:
    whole, uneven = (next(iter(Loader(Numbers(), 31, 8, n, Ranks(), True))) for n in (8, 3))
    assert [len(batch.ids) for batch in uneven.micro] == [3, 3, 2]
    assert torch.equal(torch.cat([batch.ids for batch in uneven.micro]), whole.micro[0].ids)


def test_uneven_sizes_and_empty_data_are_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match="8 sequences a step cannot be dealt to 6 ranks.*divides 8, such as 4"):
        Loader(Numbers(), 31, 8, 1, Ranks(world=6), True)
    with pytest.raises(UserError, match="no documents"):
        Loader(Numbers(0), 31, 8, 1, Ranks(), True)


def test_a_state_of_another_format_is_refused() -> None:
    [step] = take(Loader(Numbers(), 31, 8, 1, Ranks(), True), 1)
    with pytest.raises(UserError, match="format version 1"):
        Loader(Numbers(), 31, 8, 1, Ranks(), True, {**step.state, "version": 1})


def test_an_error_in_the_background_reaches_the_training_loop() -> None:
    class Broken(Numbers):
        def get(self, indices: list[int]) -> list[Example]:
            raise UserError("the shard is gone")

    with pytest.raises(UserError, match="the shard is gone"):
        next(iter(Loader(Broken(), 31, 8, 1, Ranks(), True)))


def test_whoever_waits_for_a_step_can_look_around() -> None:
    there = threading.Event()

    class Late(Numbers):
        def get(self, indices: list[int]) -> list[Example]:
            there.wait()
            return super().get(indices)

    with closing(Loader(Late(), 31, 8, 1, Ranks(), True).ahead()) as ahead:
        assert ahead.get(0.01) is None
        there.set()
        step = ahead.get(60)
    assert step
    assert rows_of([step]) == rows_of(take(Loader(Numbers(), 31, 8, 1, Ranks(), True), 1))


@pytest.mark.parametrize(
    "change",
    [
        {"row": "7"}, {"row": -1}, {"row": True}, {"of": 0}, {"of": 10**12}, {"streams": []}, {"streams": {"0": 1}},
        {"version": None}, {"version": 10**30}, {"streams": None},
    ],
)  # fmt: skip
def test_a_position_of_a_stranger_is_refused_in_one_sentence(change: dict[str, Any]) -> None:
    def make(state: Any = None) -> Loader:
        return Loader(Numbers(), 16, 4, 4, Ranks(), True, state)

    state = json.loads(json.dumps(take(make(), 1)[0].state))
    make(state)
    with pytest.raises(UserError, match="the data position saved in this checkpoint"):
        make({**state, **change})
    for spoilt in ({"docs": [[1, 0]]}, {"docs": [[1, 10**9]]}, {"docs": 5}, {"docs": [[1]]}, {"next": "x"}):
        streams = {**state["streams"], "3": {**state["streams"]["3"], **spoilt}}
        with pytest.raises(UserError, match="the data position saved in this checkpoint"):
            make({**state, "streams": streams})
