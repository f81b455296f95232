"""The KV cache's rows: put, selected, inserted and forgotten, each without touching the others."""

from __future__ import annotations

import pytest
import torch

from nanochat.model import GPT, KVCache, ModelConfig

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


def cache(model: GPT, rows: int) -> KVCache:
    return KVCache(model.config, rows, LENGTH, "cpu", torch.float64)


def last(model: GPT, given: torch.Tensor) -> torch.Tensor:
    """Logits behind ids (rows, n), without a cache."""
    return model(given)[:, -1]


@torch.no_grad()
def test_a_prompt_is_inserted_into_a_row_and_its_neighbours_go_on(model: GPT) -> None:
    """The row held more before: what stands behind the new prompt's end must not be seen."""
    held = cache(model, 3)
    first = ids(3, 12)
    model(first, held)
    prompt = ids(1, 5, seed=1)
    alone = cache(model, 1)
    model(prompt, alone)
    before = held.keys.clone()
    held.insert(torch.tensor([1]), alone)
    assert held.length.tolist() == [12, 5, 12]
    assert held.last.tolist() == [int(first[0, -1]), int(prompt[0, -1]), int(first[2, -1])]
    for row in (0, 2):
        assert torch.equal(held.keys[:, row], before[:, row])
    new = ids(3, 1, seed=2)
    got = model(new, held)[:, -1]
    rows = [first[0], prompt[0], first[2]]
    for row, past in enumerate(rows):
        expected = last(model, torch.cat((past, new[row]))[None])[0]
        torch.testing.assert_close(got[row], expected, atol=1e-9, rtol=0)


@torch.no_grad()
def test_one_prompt_is_inserted_into_several_rows(model: GPT) -> None:
    held, alone = cache(model, 4), cache(model, 1)
    prompt = ids(1, 6)
    model(prompt, alone)
    held.insert(torch.tensor([3, 0]), alone)
    assert held.length.tolist() == [6, 0, 0, 6] and held.longest == 6
    for row in (0, 3):
        assert torch.equal(held.keys[:, row, :, :6], alone.keys[:, 0, :, :6])
        assert torch.equal(held.values[:, row, :, :6], alone.values[:, 0, :, :6])
    assert not held.keys[:, 1:3].any()


@torch.no_grad()
def test_rows_are_selected_in_any_order_and_repeated(model: GPT) -> None:
    held = cache(model, 3)
    first = ids(3, 7)
    model(first, held)
    chosen = torch.tensor([2, 0, 2])
    other = held.select(chosen)
    new = ids(3, 2, seed=1)
    got = model(new, other)[:, -1]
    torch.testing.assert_close(got, last(model, torch.cat((first[chosen], new), 1)), atol=1e-9, rtol=0)
    assert held.length.tolist() == [7, 7, 7]  # the other one has gone on by itself


@torch.no_grad()
def test_a_forgotten_row_begins_anew(model: GPT) -> None:
    held = cache(model, 2)
    first = ids(2, 9)
    model(first, held)
    held.reset(torch.tensor([0]))
    assert held.length.tolist() == [0, 9] and held.last.tolist() == [-1, int(first[1, -1])]
    new = ids(2, 1, seed=1)
    got = model(new, held)[:, -1]
    torch.testing.assert_close(got[0], last(model, new[:1])[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(got[1], last(model, torch.cat((first[1], new[1]))[None])[0], atol=1e-9, rtol=0)
    held.reset()
    assert held.length.tolist() == [0, 0] and held.longest == 0 and (held.last == -1).all()


def test_more_than_there_is_room_for_is_an_error(model: GPT) -> None:
    held = cache(model, 1)
    with torch.no_grad():
        model(ids(1, LENGTH), held)
        with pytest.raises(ValueError, match="24 \\+ 1 positions do not fit in a cache of 24"):
            model(ids(1, 1), held)
