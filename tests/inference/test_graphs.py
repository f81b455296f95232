"""Decoding by recordings: recorded here as a CUDA graph is, but on a CPU, operation by operation."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat.inference.graphs import CudaRecorder, Work, padded_keys, padded_rows
from nanochat.inference.runner import Chunk
from nanochat.inference.torch_runner import TorchRunner
from nanochat.model import attention
from nanochat.model.trying import Chosen
from tests.inference.test_torch_runner import CONFIGS, MODELS, Follower, Reads, ids_of, random_model


class Recorder(TorchDispatchMode):
    """Keeps every operation with the very tensors it was given, as a CUDA graph keeps kernels with their addresses.

    Doing it again runs no Python of the work's: what the host knew when it was recorded is known for ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[int] = []  # operations of each recording

    def __call__(self, work: Work) -> Work:
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        with self:
            work()
        calls = self.calls
        self.recorded.append(len(calls))

        def again() -> None:
            for func, args, kwargs, made in calls:
                if isinstance(made, torch.Tensor):
                    new = func(*args, **kwargs)
                    if new.data_ptr() != made.data_ptr():  # neither a view nor in place
                        made.copy_(new)
                else:
                    for old, new in zip(made, func(*args, **kwargs), strict=True):
                        if isinstance(old, torch.Tensor) and new.data_ptr() != old.data_ptr():
                            old.copy_(new)

        return again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made


def test_rows_and_keys_of_recordings() -> None:
    assert [padded_rows(n) for n in (1, 2, 3, 4, 5, 16, 17, 33)] == [1, 2, 4, 4, 8, 16, 32, 64]
    assert [padded_keys(end, 256, 2048) for end in (1, 256, 257, 513, 1024, 1025)] == [256, 256, 512, 1024, 1024, 2048]
    assert padded_keys(700, 256, 768) == 768


@pytest.mark.parametrize("name", CONFIGS)
def test_recorded_steps_give_the_models_own_logits(name: str) -> None:
    """Of 1 to 5 rows in any slots, at any positions, beside prompt pieces; few recordings serve all."""
    recorder = Recorder()
    runner = TorchRunner(MODELS[name], recorder)
    runner.grow(6, 300)
    follower = Follower(MODELS[name], runner)
    follower.check([follower.chunk(slot, ids_of(n, slot)) for slot, n in enumerate((3, 25, 1, 7, 12, 240))])
    assert len(recorder.recorded) == 1  # one id is decoded
    for turn in range(20):
        slots = [(turn * 7 + k) % 6 for k in range(1 + turn % 5)]
        chunks = [follower.chunk(slot, ids_of(1, 10 * turn + slot)) for slot in slots]
        if turn % 4 == 3:
            free = next(slot for slot in range(6) if slot not in slots)
            chunks.insert(1, follower.chunk(free, ids_of(3, turn), start=turn // 2))
        follower.check(chunks)
    assert len(recorder.recorded) <= 8  # 1, 2, 4 and 8 rows, at most 256 or 512 keys


@settings(max_examples=15, deadline=None)
@given(
    steps=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True), min_size=1, max_size=8),
    starts=st.lists(st.integers(0, 20), min_size=6, max_size=6),
)
def test_any_rows_by_recordings_are_those_without(steps: list[list[int]], starts: list[int]) -> None:
    model = MODELS["modern"]
    runner = TorchRunner(model, Recorder())
    runner.grow(6, 40)
    follower = Follower(model, runner)
    for slot, start in enumerate(starts):
        if start:
            follower.check([follower.chunk(slot, ids_of(start, slot))])
    for number, slots in enumerate(steps):
        follower.check([follower.chunk(slot, ids_of(1, number + 10 * slot)) for slot in slots])


@torch.inference_mode()
def test_rows_that_fill_up_change_nothing() -> None:
    """Whatever stands in the page that they write to."""
    model = MODELS["modern"]
    runner = TorchRunner(model, Recorder())
    runner.grow(3, 40)
    follower = Follower(model, runner)
    follower.check([follower.chunk(slot, ids_of(5, slot)) for slot in range(3)])
    held = runner.cache.by_slot(runner.cache.keys).clone()
    follower.check([follower.chunk(slot, [slot]) for slot in range(3)])
    runner.cache.keys[:, runner.cache.slots * runner.cache.room :] = 1e3
    follower.check([follower.chunk(slot, [slot + 3]) for slot in range(3)])
    assert torch.equal(runner.cache.by_slot(runner.cache.keys)[:, :, :5], held[:, :, :5])


def test_new_weights_in_place_are_used_and_new_tensors_recorded_anew() -> None:
    model = random_model(CONFIGS["modern"])
    recorder = Recorder()
    runner = TorchRunner(model, recorder)
    runner.grow(1, 40)
    for move in (False, True):
        follower = Follower(model, runner)
        follower.check([follower.chunk(0, ids_of(5, 0))])
        follower.check([follower.chunk(0, [3])])
        with torch.no_grad():
            for p in model.parameters():
                if move:
                    p.data = p * 1.1
                else:
                    p.mul_(1.1)
        runner.refresh()
    follower = Follower(model, runner)
    follower.check([follower.chunk(0, ids_of(5, 1))])
    follower.check([follower.chunk(0, [4])])
    assert len(recorder.recorded) == 2


def test_longer_rotary_tables_leave_the_recorded_ones() -> None:
    """A recording knows addresses only: somebody has to keep what is there."""
    model = random_model(CONFIGS["classic"])
    runner = TorchRunner(model, lambda work: (work(), lambda: None)[1])
    runner.grow(1, 40)
    runner.step([Chunk(0, 0, [1, 2], -1)])
    runner.step([Chunk(0, 2, [3], 2)])
    recorded = weakref.ref(model.cos)
    with torch.no_grad():
        model(torch.zeros(1, 600, dtype=torch.long))
    assert runner.recordings == 1 and recorded() is not None and recorded() is not model.cos


def test_short_memory_is_not_recorded_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (300 << 20, 80 << 30))
    with pytest.raises(RuntimeError, match="only 300 MB of the GPU's memory are free"):
        CudaRecorder()(lambda: None)


def test_a_grown_cache_is_recorded_anew_and_keeps_what_it_holds() -> None:
    recorder = Recorder()
    runner = TorchRunner(MODELS["classic"], recorder)
    runner.grow(1, 40)
    follower = Follower(MODELS["classic"], runner)
    follower.check([follower.chunk(0, ids_of(5, 0))])
    follower.check([follower.chunk(0, [3])])
    runner.grow(2, 600)
    follower.check([follower.chunk(0, [4])])
    follower.check([follower.chunk(0, [5]), follower.chunk(1, [6])])
    assert len(recorder.recorded) == 3


def test_a_device_that_cannot_record_goes_on_without_and_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(work: Work) -> Work:
        work()
        raise torch.OutOfMemoryError("only 12 MB of the GPU's memory are free\nmore")

    runner = TorchRunner(MODELS["modern"], refuse)
    runner.grow(2, 40)
    follower = Follower(MODELS["modern"], runner)
    for turn in range(3):
        follower.check([follower.chunk(slot, [turn + slot]) for slot in range(2)])
    said = capsys.readouterr().err
    assert said == "decoding goes on without CUDA graphs, which is slower: only 12 MB of the GPU's memory are free\n"


@pytest.mark.parametrize("name", CONFIGS)
def test_recorded_steps_do_not_wait_for_the_device(name: str) -> None:
    runner = TorchRunner(MODELS[name], Recorder())
    runner.grow(4, 40)
    runner.step([Chunk(0, 0, [1, 2, 3], -1), Chunk(3, 0, [4] * 20, -1)])
    with Reads() as reads:
        for turn in range(3):
            runner.step([Chunk(3, 20 + turn, [5], 4), Chunk(0, 3 + turn, [5], 4)])
    assert reads.seen == []


def by_the_book(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor,
    max_q: int, max_k: int, *, scale: float, window_size: tuple[int, int], enable_gqa: bool, seqused_k: torch.Tensor,
    block_table: torch.Tensor, num_splits: int,
) -> torch.Tensor:  # fmt: skip
    """What torch documents of varlen_attn with a block table, sequence by sequence."""
    assert block_table.dtype == seqused_k.dtype == cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert enable_gqa == (query.size(1) != key.size(2)) and num_splits == 1 and window_size[1] == 0
    made = torch.full_like(query, torch.nan)
    for row, (first, end) in enumerate(zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True)):
        used = int(seqused_k[row])
        assert end - first <= max_q and used <= block_table.size(1) * key.size(1) == max_k
        k, v = (pool[block_table[row].long()].flatten(0, 1)[:used] for pool in (key, value))
        k, v = (x.repeat_interleave(query.size(1) // key.size(2), 1) for x in (k, v))
        distance = torch.arange(used - (end - first), used)[:, None] - torch.arange(used)
        hidden = (distance < 0) | ((distance > window_size[0]) & (window_size[0] >= 0))
        scores = torch.einsum("qhd,khd->hqk", query[first:end], k) * scale
        made[first:end] = torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)
    return made


@pytest.fixture
def paged(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As on a card with FlashAttention, whose part is played by its documentation."""
    monkeypatch.setattr(attention, "varlen", lambda: by_the_book)
    monkeypatch.setattr(attention, "choose_attention", lambda *given: Chosen("flash"))
    monkeypatch.setattr(attention, "flash_takes", lambda *arguments: True)
    attention.pages_are_read_right.cache_clear()
    return monkeypatch


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("recorded", [False, True])
def test_pages_are_read_where_the_slots_have_them(name: str, recorded: bool, paged: pytest.MonkeyPatch) -> None:
    """Newest tokens and prompt pieces behind others, over several pages and beyond the window."""
    # The reference reads lengths, so only its caller can be recorded: by doing the work again.
    runner = TorchRunner(MODELS[name], (lambda work: (work(), work)[1]) if recorded else None)
    runner.grow(4, 300)
    assert runner.cache.room == 512 and runner.cache.paged
    paged.setattr(attention, "choose_attention", lambda *given: Chosen("blocked"))
    follower = Follower(MODELS[name], runner)
    follower.check([follower.chunk(slot, ids_of(n, slot)) for slot, n in ((3, 3), (0, 252), (1, 8))])
    for turn in range(9):
        chunks = [follower.chunk(slot, ids_of(1, turn + slot)) for slot in (3, 0, 1)]
        follower.check([*chunks, follower.chunk(2, ids_of(5, turn))])


@pytest.mark.skipif(not attention.flash_takes(*attention.READS_PAGES), reason="this torch reads no pages")
def test_torch_takes_what_it_is_given_of_pages() -> None:
    """On `meta`, which has shapes and types only; nothing but a card computes it."""
    q, k = torch.empty(3, 4, 2, 64, device="meta"), torch.empty(10, 256, 2, 64, device="meta")
    table, used = torch.empty(3, 2, device="meta"), torch.empty(3, device="meta")
    assert attention.attend_pages(q, k, k, attention.Pages(table, used, 512), 100, 0.1).shape == q.shape


def test_pages_that_are_read_wrong_are_not_used(paged: pytest.MonkeyPatch) -> None:
    """As by torch 2.13 on some cards, if keys are split."""
    cpu = torch.device("cpu")
    assert attention.reads_pages(cpu, torch.float32, 64, 256) and not attention.reads_pages(cpu, torch.float32, 64, 128)

    def first_row_only(*args: Any, **kwargs: Any) -> torch.Tensor:
        made = by_the_book(*args, **kwargs)
        made[1:] = 0
        return made

    def refusing(*args: Any, **kwargs: Any) -> torch.Tensor:
        raise RuntimeError("block_table needs FlashAttention 3")

    for wrong in (first_row_only, refusing):
        paged.setattr(attention, "varlen", lambda wrong=wrong: wrong)
        attention.pages_are_read_right.cache_clear()
        assert not attention.reads_pages(cpu, torch.float32, 64, 256)
    attention.pages_are_read_right.cache_clear()
