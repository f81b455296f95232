"""Packing: nothing wasted, whole conversations, the same stream for any number of ranks, exact resume."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.dataset.loader import Loader, merge_states
from nanochat.dataset.packing import Sequence, Stream
from nanochat.machine import Ranks

BOS = 0


class Numbers:
    """Document i is <bos> i i i ... of a length that depends on i; `masked`: only its second half carries loss."""

    def __init__(self, n: int = 50, longest: int = 40, masked: bool = False):
        self.n, self.longest, self.masked = n, longest, masked

    def __len__(self) -> int:
        return self.n

    def get(self, indices: list[int]) -> list[Sequence]:
        out = []
        for i in indices:
            ids = np.array([BOS, *[i + 1] * (1 + i * 7 % self.longest)], np.int64)
            out.append(Sequence(ids, np.arange(len(ids)) >= len(ids) // 2 if self.masked else None))
        return out


def take(loader: Loader, steps: int) -> list:
    stream = iter(loader)
    out = [next(stream) for _ in range(steps)]
    stream.close()
    return out


def rows_of(steps: list) -> list[list[tuple[list[int], list[int]]]]:
    return [[(i, t) for b in s.micro for i, t in zip(b.ids.tolist(), b.targets.tolist(), strict=True)] for s in steps]


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 80), longest=st.integers(1, 60), row=st.integers(2, 50))
def test_cropped_rows_are_full_and_begin_with_a_document(n: int, longest: int, row: int) -> None:
    stream = Stream(Numbers(n, longest), 0, 1, row, crop=True)
    for _ in range(20):
        ids, mask = stream.next_row()
        assert ids[0] == BOS and mask.all() and len(ids) == row
        starts = [*np.flatnonzero(ids == BOS), row]
        for a, b in itertools.pairwise(starts):
            assert len(set(ids[a + 1 : b])) <= 1  # one document, never two without a <bos> between them


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 80), longest=st.integers(1, 40))
def test_conversations_stay_whole_and_padding_carries_no_loss(n: int, longest: int) -> None:
    source, row = Numbers(n, longest, masked=True), 48
    stream = Stream(source, 0, 1, row, crop=False)
    for _ in range(20):
        ids, mask = stream.next_row()
        starts = [*np.flatnonzero(ids == BOS), row]
        for a, b in itertools.pairwise(starts):
            if b - a == 1:  # padding
                assert not mask[a]
                continue
            [doc] = source.get([int(ids[a + 1]) - 1])
            assert b - a == len(doc.ids)
            assert doc.mask is not None and (mask[a:b] == doc.mask).all()
    assert stream.cropped == 0


def test_every_document_comes_once_per_epoch() -> None:
    stream = Stream(Numbers(40, 6), 0, 1, 400, crop=False)
    seen: list[int] = []
    while len(seen) < 40:
        ids, _ = stream.next_row()
        starts = np.flatnonzero(ids == BOS)
        seen += [int(ids[a + 1]) for a in starts if a + 1 < 400 and ids[a + 1] != BOS]
    assert stream.next % 32 == 0
    assert len(seen) - len(set(seen)) <= stream.next - 40


@pytest.mark.parametrize("masked", [False, True])
def test_targets_are_the_next_ids_where_the_mask_allows(masked: bool) -> None:
    for step in take(Loader(Numbers(masked=masked), 47, 8, 4, Ranks(), crop=not masked), 3):
        for b in step.micro:
            assert b.ids.shape == b.targets.shape == (4, 47)
            assert torch.equal(b.targets[:, :-1][b.targets[:, :-1] >= 0], b.ids[:, 1:][b.targets[:, :-1] >= 0])
        assert step.valid == sum(int((b.targets >= 0).sum()) for b in step.micro)
        assert (step.valid == 8 * 47) is not masked


@pytest.mark.parametrize("world", [2, 4, 8])
def test_ranks_together_see_what_one_rank_sees(world: int) -> None:
    def steps(r: Ranks) -> list:
        return rows_of(take(Loader(Numbers(), 31, 16, 2, r, crop=True), 4))

    alone = steps(Ranks())
    parts = [steps(Ranks(rank=r, world=world)) for r in range(world)]
    for n, step in enumerate(alone):
        assert step == [parts[row % world][n][row // world] for row in range(16)]


@pytest.mark.parametrize("after", [1, 3])
@pytest.mark.parametrize(("before_world", "after_world"), [(1, 1), (1, 2), (2, 1), (4, 2)])
def test_resuming_yields_the_batches_of_an_uninterrupted_run(after: int, before_world: int, after_world: int) -> None:
    def loader(rank: int, world: int, state: dict | None) -> Loader:
        return Loader(Numbers(), 31, 8, 1, Ranks(rank=rank, world=world), True, state)

    whole = rows_of(take(loader(0, 1, None), after + 3))
    state = merge_states([take(loader(r, before_world, None), after)[-1].state for r in range(before_world)])
    parts = [rows_of(take(loader(r, after_world, state), 3)) for r in range(after_world)]
    for n in range(3):
        assert whole[after + n] == [parts[row % after_world][n][row // after_world] for row in range(8)]


def test_uneven_sizes_and_empty_data_are_refused_with_a_remedy() -> None:
    with pytest.raises(UserError, match="cannot be dealt to 3 ranks"):
        Loader(Numbers(), 31, 8, 1, Ranks(world=3), True)
    with pytest.raises(UserError, match="device_batch_size=2"):
        Loader(Numbers(), 31, 8, 6, Ranks(), True)
    with pytest.raises(UserError, match="no documents"):
        Loader(Numbers(0), 31, 8, 1, Ranks(), True)


def test_an_error_in_the_background_reaches_the_training_loop() -> None:
    class Broken(Numbers):
        def get(self, indices: list[int]) -> list[Sequence]:
            raise UserError("the shard is gone")

    with pytest.raises(UserError, match="the shard is gone"):
        next(iter(Loader(Broken(), 31, 8, 1, Ranks(), True)))
