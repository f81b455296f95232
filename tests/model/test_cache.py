"""The KV cache: sequences in slots, and rows that continue them, each without touching the others."""

from __future__ import annotations

import pytest
import torch

from nanochat.model import GPT, ModelConfig
from nanochat.model.cache import Bounds, KVCache

CLASSIC = ModelConfig(2, 32, 4, 2, 50, 64)
MODERN = ModelConfig(3, 32, 4, 2, 50, 64, "modern", 100000.0, bigram=31)
LENGTH = 24


@pytest.fixture(params=[CLASSIC, MODERN], ids=["classic", "modern"])
def model(request: pytest.FixtureRequest) -> GPT:
    made = GPT(request.param, torch.float64).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return made.eval()


def ids(rows: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 50, (rows, n), generator=torch.Generator().manual_seed(seed))


def cache(model: GPT, slots: int, length: int = LENGTH) -> KVCache:
    return KVCache(model.config, slots, length, "cpu", torch.float64)


def run(model: GPT, held: KVCache, slots: list[int], past: list[torch.Tensor], new: torch.Tensor) -> torch.Tensor:
    """Last logits of rows that hold `past`, which `held` has, and then `new` (rows, n)."""
    before = [int(p[-1]) if len(p) else -1 for p in past]
    return model(new, held.continued(slots, [len(p) for p in past], before, new.size(1)))[:, -1]


def check(model: GPT, got: torch.Tensor, past: list[torch.Tensor], new: torch.Tensor) -> None:
    for row, whole in enumerate(torch.cat((p, n)) for p, n in zip(past, new, strict=True)):
        torch.testing.assert_close(got[row], model(whole[None])[0, -1], atol=1e-9, rtol=0)


@torch.no_grad()
def test_a_slot_begins_anew_and_its_neighbours_go_on(model: GPT) -> None:
    """The slot held more before: what stands behind the new prompt's end must not be seen."""
    held, nothing = cache(model, 3), ids(1, 0)
    first, prompt, new = ids(3, 12), ids(1, 5, seed=1), ids(3, 1, seed=2)
    run(model, held, [0, 1, 2], list(nothing.expand(3, 0)), first)
    before = held.by_slot(held.keys).clone()
    run(model, held, [1], list(nothing), prompt)
    for slot in (0, 2):
        assert torch.equal(held.by_slot(held.keys)[:, slot], before[:, slot])
    past = [first[0], prompt[0], first[2]]
    check(model, run(model, held, [0, 1, 2], past, new), past, new)


@torch.no_grad()
def test_a_beginning_is_copied_to_other_slots(model: GPT) -> None:
    held = cache(model, 4)
    first, new = ids(1, 9), ids(3, 2, seed=1)
    run(model, held, [2], list(ids(1, 0)), first)
    held.copy(2, [3, 0], 6)
    assert not held.by_slot(held.keys)[:, 1].any() and not held.by_slot(held.values)[:, 0, 6:].any()
    past = [first[0, :6], first[0], first[0, :6]]
    check(model, run(model, held, [3, 2, 0], past, new), past, new)


@torch.no_grad()
def test_a_larger_cache_takes_all(model: GPT) -> None:
    held, larger = cache(model, 2, 10), cache(model, 3)
    first, new = ids(2, 7), ids(2, 5, seed=1)
    run(model, held, [0, 1], list(ids(2, 0)), first)
    larger.take(held)
    past = [first[1], first[0]]
    check(model, run(model, larger, [1, 0], past, new), past, new)


def test_what_the_host_knows_of_rows() -> None:
    assert Bounds.of([3, 4, 5], [7, 7, 7], 2) == Bounds(2, 7, 9, True, slice(3, 6))
    assert Bounds.of([4, 3], [1, 6], 1) == Bounds(1, 1, 7)
    assert Bounds.of([0, 2], [0, 0], 4) == Bounds(4, 0, 4, True)


def test_pages_are_whole_and_one_more_is_for_rows_that_fill_up() -> None:
    held = KVCache(CLASSIC, 3, 20, "cpu", torch.float32, page=8)
    assert held.room == 24 and held.keys.shape == (2, 3 * 24 + 8, 2, 8)
    pages = held.continued([2, 0], [5, 19], [1, 1], 1)._pages
    assert pages.table.tolist() == [[6, 7, 8], [0, 1, 2]] and pages.used.tolist() == [6, 20]
    pages = held.continued([3], [0], [-1], 1)._pages
    assert pages.table.tolist() == [[9, 9, 9]] and pages.used.tolist() == [1]
    assert held.keys.unflatten(1, (-1, 8)).size(1) == 10


def test_more_than_there_is_room_for_is_an_error(model: GPT) -> None:
    held = cache(model, 1)
    with pytest.raises(ValueError, match="25 positions do not fit in a cache of 24"):
        held.continued([0], [24], [1], 1)
