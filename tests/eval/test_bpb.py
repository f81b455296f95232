"""Bits per byte against a reference computed by hand, and what must not change it."""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nanochat.console import UserError
from nanochat.eval import bits_per_byte, bpb, text_batches
from nanochat.eval.base import measure_bpb
from nanochat.eval.bpb import rows
from nanochat.machine import Ranks
from nanochat.model import GPT, ModelConfig
from nanochat.tokenizer import Tokenizer

TEXTS = ["the cat sat", "", "naïve the cat", "a longer text than the others, with a hat"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer({bytes([i]): i for i in range(256)} | {b"th": 256, b"the": 257, b"at": 258})


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> GPT:
    model = GPT(ModelConfig(2, 16, 2, 2, tokenizer.vocab_size, 8), torch.float64).double()
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data.normal_(0, 0.3, generator=generator)
    return model


def stream(tokenizer: Tokenizer) -> list[int]:
    return [i for text in TEXTS for i in [tokenizer.bos, *tokenizer.encode(text)]]


def test_rows_tile_the_documents_in_order(tokenizer: Tokenizer) -> None:
    ids = stream(tokenizer)
    found = list(rows(TEXTS, tokenizer, 8))
    assert all(len(row) == 9 for row in found)
    targets = [i for row in found for i in row[1:]]
    assert targets[: len(ids) - 1] == ids[1:]
    assert set(targets[len(ids) - 1 :]) == {-1}
    assert [row[0] for row in found[1:]] == [row[-1] for row in found[:-1]]


@pytest.mark.parametrize("size", [9, 10, 17, 18])
def test_last_row_is_padded_only_when_partial(tokenizer: Tokenizer, size: int) -> None:
    found = list(rows(["x" * (size - 1)], tokenizer, 8))
    assert sum(i == -1 for row in found for i in row) == -(size - 1) % 8


def test_no_text_makes_no_rows(tokenizer: Tokenizer) -> None:
    assert list(rows([], tokenizer, 8)) == []
    assert list(rows([""], tokenizer, 8)) == []  # a lone bos predicts nothing


def test_equals_the_sum_by_hand(model: GPT, tokenizer: Tokenizer) -> None:
    nats, size = 0.0, 0
    for row in rows(TEXTS, tokenizer, 8):
        ids = [i for i in row if i >= 0]
        logp = F.log_softmax(model(torch.tensor([ids[:-1]]))[0], dim=-1)
        for place, target in enumerate(ids[1:]):
            if target < 259:  # the specials come after the 259 learnt tokens
                nats -= logp[place, target].item()
                size += len(tokenizer.decode_bytes([target]))
    assert size == sum(len(text.encode()) for text in TEXTS)
    batches = text_batches(TEXTS, tokenizer, batch=3, seq_len=8, tokens=10**6)
    assert bits_per_byte(model, batches, tokenizer.token_bytes) == pytest.approx(nats / math.log(2) / size, rel=1e-12)


def test_a_uniform_model_needs_log2_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    model = GPT(ModelConfig(1, 16, 2, 2, tokenizer.vocab_size, 8))
    torch.nn.init.zeros_(model.head.weight)
    batches = text_batches(["zzzzzzz"], tokenizer, batch=2, seq_len=8, tokens=100)  # one byte per token
    assert bits_per_byte(model, batches, tokenizer.token_bytes) == pytest.approx(
        math.log2(tokenizer.vocab_size), rel=1e-6
    )


@pytest.mark.parametrize(("batch", "world"), [(1, 1), (7, 1), (2, 2), (1, 3)])
def test_batch_and_ranks_do_not_choose_the_text(tokenizer: Tokenizer, batch: int, world: int) -> None:
    whole = list(rows(TEXTS, tokenizer, 8))[:5]
    shares = [
        [
            t
            for _, y in text_batches(TEXTS, tokenizer, batch=batch, seq_len=8, tokens=33, rank=r, world=world)
            for t in y
        ]
        for r in range(world)
    ]
    assert sorted(y.tolist() for y in chain(*shares)) == sorted(row[1:] for row in whole)


def test_batch_does_not_change_the_result(model: GPT, tokenizer: Tokenizer) -> None:
    results = [
        bits_per_byte(model, text_batches(TEXTS, tokenizer, batch=b, seq_len=8, tokens=40), tokenizer.token_bytes)
        for b in (1, 2, 5)
    ]
    assert results == pytest.approx([results[0]] * 3, rel=1e-12)


def test_training_mode_is_kept_and_progress_counted(model: GPT, tokenizer: Tokenizer) -> None:
    model.train()
    done: list[int] = []
    batches = list(text_batches(TEXTS, tokenizer, batch=2, seq_len=8, tokens=24))
    bits_per_byte(model, batches, tokenizer.token_bytes, done.append)
    assert model.training
    assert done == [16, 8]
    model.eval()


def test_ranks_add_up_their_shares(model: GPT, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def share(rank: int, world: int) -> float:
        batches = text_batches(TEXTS, tokenizer, batch=2, seq_len=8, tokens=40, rank=rank, world=world)
        return bits_per_byte(model, batches, tokenizer.token_bytes)

    whole = share(0, 1)
    seen: list[tuple[float, int]] = []

    def gather(shares: list[tuple[float, int]], mine: tuple[float, int]) -> None:
        seen.append(mine)
        shares[: len(seen)] = seen

    group = {"is_available": lambda: True, "is_initialized": lambda: True, "get_world_size": lambda: 2}
    monkeypatch.setattr(bpb, "dist", SimpleNamespace(**group, all_gather_object=gather))
    alone = share(0, 2)
    assert share(1, 2) == pytest.approx(whole, rel=1e-12)  # the second rank sees both shares
    assert alone != pytest.approx(whole, rel=1e-3)


def measured(tmp_path: Path, text: str, model: GPT, tokenizer: Tokenizer, tokens: int) -> tuple[float, str]:
    (tmp_path / "a.txt").write_text(text)
    machine = SimpleNamespace(device=torch.device("cpu"), ranks=Ranks())
    subject: Any = SimpleNamespace(model=model, tokenizer=tokenizer, machine=machine, dataset="")
    found, versions = measure_bpb(subject, tmp_path / "a.txt", tokens=tokens)
    return found["data"], versions["data"]


def test_losses_that_are_not_finite_are_named(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = GPT(ModelConfig(1, 16, 2, 2, tokenizer.vocab_size, 8)).init_weights(0)
    model.head.weight.data.fill_(math.nan)
    with pytest.raises(UserError, match=r"the data text of .*a\.txt: the model's losses are not finite"):
        measured(tmp_path, "some text", model, tokenizer, 100)


def test_the_version_is_of_the_text_that_was_measured(tmp_path: Path, model: GPT, tokenizer: Tokenizer) -> None:
    """As many tokens of another tokenizer are another part of the text, unless that is all of it."""
    other = Tokenizer({bytes([i]): i for i in range(256)} | {b"at": 256, b"th": 257, b"hat": 258})
    text = "the cat sat on that mat, " * 9
    for tokens, same in ((40, False), (1000, True)):
        versions = {measured(tmp_path, text, model, t, tokens)[1] for t in (tokenizer, other)}
        assert (len(versions) == 1) is same


def test_nothing_to_predict_is_nan(model: GPT, tokenizer: Tokenizer) -> None:
    assert math.isnan(bits_per_byte(model, [], tokenizer.token_bytes))
