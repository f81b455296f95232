"""The runner on torch gives what the model gives for the whole sequence, however it is cut, placed and interleaved."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat.console import UserError
from nanochat.inference import Engine, Request
from nanochat.inference.runner import Chunk
from nanochat.inference.torch_runner import TorchRunner
from nanochat.model import GPT, ModelConfig
from nanochat.model import config as config_module
from nanochat.tokenizer import Tokenizer

VOCAB = 53
CLASSIC = ModelConfig(2, 32, 4, 2, VOCAB, 48)
MODERN = replace(CLASSIC, depth=3, arch="modern", windows="SSL", bigram=31)
PLAIN = replace(MODERN, windows="L", bigram=0, kv_heads=4)
CONFIGS = {"classic": CLASSIC, "modern": MODERN, "modern, no windows": PLAIN}


def random_model(config: ModelConfig, dtype: torch.dtype = torch.float64) -> GPT:
    """No weight is 0. A short window reaches 8 tokens back."""
    tile, config_module.SHORT_TILE = config_module.SHORT_TILE, 8
    try:
        model = GPT(replace(config, seq_len=32), dtype).to(dtype)
    finally:
        config_module.SHORT_TILE = tile
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=g) * 0.3)
    return model.eval()


MODELS = {name: random_model(config) for name, config in CONFIGS.items()}


def ids_of(length: int, seed: int) -> list[int]:
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


class Follower:
    """A runner, and what each slot should hold: `check` steps and compares with the model on the whole sequences."""

    def __init__(self, model: GPT, runner: TorchRunner) -> None:
        self.model, self.runner = model, runner
        self.held: dict[int, list[int]] = {}

    def chunk(self, slot: int, ids: list[int], start: int | None = None, wanted: int = 1) -> Chunk:
        past = self.held.get(slot, [])[:start]
        self.held[slot] = [*past, *ids]
        return Chunk(slot, len(past), ids, past[-1] if past else -1, wanted)

    @torch.no_grad()
    def check(self, chunks: list[Chunk]) -> None:
        got = self.runner.step(chunks)
        assert got.shape == (sum(chunk.wanted for chunk in chunks), self.model.config.vocab_size)
        for chunk in chunks:
            if chunk.wanted:
                expected = self.model(torch.tensor([self.held[chunk.slot]]))[0, -chunk.wanted :]
                torch.testing.assert_close(got[: chunk.wanted], expected, atol=1e-9, rtol=0)
                got = got[chunk.wanted :]


lengths = st.one_of(st.just(1), st.integers(1, 20))
moves = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.lists(st.tuples(st.integers(0, 5), lengths, st.integers(0, 2)), min_size=1)),
        st.tuples(st.just("copy"), st.integers(0, 5), st.sets(st.integers(0, 5)), st.floats(0, 1)),
        st.tuples(st.just("cut"), st.integers(0, 5), st.floats(0, 1)),
        st.tuples(st.just("grow"), st.integers(1, 8), st.sampled_from([32, 300])),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=40, deadline=None)
@given(moves=moves, seed=st.integers(0, 1000))
def test_any_cutting_and_interleaving_gives_the_models_own_logits(name: str, moves: list[Any], seed: int) -> None:
    runner = TorchRunner(MODELS[name])
    runner.grow(6, 64)
    follower = Follower(MODELS[name], runner)
    for number, (kind, *what) in enumerate(moves):
        held = follower.held
        if kind == "step":
            chunks, used = [], set()
            for slot, length, wanted in what[0]:
                if slot not in used and len(held.get(slot, [])) + length <= 64:
                    used.add(slot)
                    ids = ids_of(length, seed + 100 * number + slot)
                    chunks.append(follower.chunk(slot, ids, wanted=(0, 1, length)[wanted]))
            if chunks:
                follower.check(chunks)
        elif kind == "copy":
            source, targets, share = what
            length = int(share * len(held.get(source, [])))
            runner.copy(source, sorted(targets - {source}), length)
            for target in targets - {source}:
                held[target] = held.get(source, [])[:length]
        elif kind == "cut":
            slot, share = what
            held[slot] = held.get(slot, [])[: int(share * len(held.get(slot, [])))]
        else:
            runner.grow(*what)
            assert runner.slots >= max(6, what[0]) and runner.length >= max(64, what[1])


@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_rows_beside_prompt_pieces(name: str) -> None:
    """Rows whose slots are neighbours and not, at one position and at several, inside the windows and beyond."""
    runner = TorchRunner(MODELS[name])
    runner.grow(5, 64)
    follower = Follower(MODELS[name], runner)
    follower.check([follower.chunk(slot, ids_of(n, slot)) for slot, n in ((4, 3), (0, 25), (2, 3), (1, 25))])
    for turn in range(6):
        follower.check([follower.chunk(slot, ids_of(1, turn + slot)) for slot in (1, 0)])
        follower.check([follower.chunk(3, ids_of(4, turn)), *(follower.chunk(s, [turn]) for s in (4, 2, 0))])
    follower.check([follower.chunk(slot, ids_of(6, 9), start=0) for slot in (2, 3)])
    follower.check([follower.chunk(slot, [1]) for slot in (0, 1, 2, 3, 4)])


def test_a_step_in_which_no_logits_are_wanted() -> None:
    runner = TorchRunner(MODELS["modern"])
    runner.grow(1, 32)
    follower = Follower(MODELS["modern"], runner)
    follower.check([follower.chunk(0, ids_of(5, 0), wanted=0)])
    follower.check([follower.chunk(0, [3])])


@pytest.mark.parametrize("chunk", [Chunk(0, 40, [1], 1), Chunk(0, 0, [1] * 41, -1), Chunk(2, 0, [1], -1)])
@pytest.mark.parametrize("record", [None, lambda work: (work(), work)[1]])
def test_what_is_outside_the_cache_is_refused(chunk: Chunk, record: Any) -> None:
    runner = TorchRunner(MODELS["classic"], record)
    runner.grow(2, 40)
    with pytest.raises(ValueError, match="do not fit in slot . of 2 slots of 40 positions"):
        runner.step([chunk])


def test_whole_pages_are_used_within_the_models_context() -> None:
    """And no further: its rotary tables stay as they are, for which a training was compiled."""
    model = random_model(CLASSIC)
    assert model.config.seq_len == len(model.cos) == 32
    runner = TorchRunner(model)
    runner.grow(1, 20)
    assert runner.length == 32
    runner.step([Chunk(0, 0, [1] * 32, -1)])
    assert len(model.cos) == 32
    runner.grow(1, 40)
    assert runner.length == 40


def test_a_model_can_be_trained_after_it_has_answered() -> None:
    model = random_model(CLASSIC, torch.float32)
    with torch.inference_mode():
        runner = TorchRunner(model)
        runner.grow(1, 40)
    runner.step([Chunk(0, 0, [1] * 40, -1)])
    runner.grow(3, 60)
    runner.copy(0, [1, 2], 40)
    runner.step([Chunk(1, 40, [1], 1)])
    ids = torch.tensor([[1] * 60])
    model.loss(ids, ids).backward()


def test_the_logits_of_one_step_outlive_neither_it_nor_the_weights() -> None:
    """New weights in place, as RL's, are used at once."""
    model = random_model(CLASSIC)
    runner = TorchRunner(model)
    runner.grow(2, 32)
    follower = Follower(model, runner)
    follower.check([follower.chunk(0, ids_of(5, 0))])
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    runner.refresh()
    follower.check([follower.chunk(0, ids_of(7, 1), start=0)])


class Reads(TorchDispatchMode):
    """Counts operations that make the host wait for a device's values."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::")
        by_mask = name.startswith("index") and any(t is not None and t.dtype == torch.bool for t in _tensors(args[1]))
        if by_mask or name.startswith(("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _tensors(given: Any) -> list[Any]:
    return given if isinstance(given, list | tuple) else []


def test_a_read_is_counted() -> None:
    with Reads() as reads:
        made = torch.arange(3)
        made[made > 1].sum().item()
    assert len(reads.seen) == 2


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_never_waits_for_the_device(name: str) -> None:
    """Nor can it on `meta`, which has no values that anything could depend on."""
    runner = TorchRunner(MODELS[name])
    on_meta = TorchRunner(random_model(CONFIGS[name]).to("meta"))
    for each in (runner, on_meta):
        each.grow(4, 64)
        with Reads() as reads:
            each.step([Chunk(0, 0, [1, 2, 3], -1), Chunk(3, 0, [4] * 20, -1, wanted=0)])
            for turn in range(3):
                logits = each.step([Chunk(3, 20 + turn, [5], 4), Chunk(0, 3 + turn, [5], 4), Chunk(1, 0, [7, 8], -1)])
        assert reads.seen == []
        assert logits.shape == (3, VOCAB) and logits.device.type == each.model.device.type


def test_numbers_that_are_none_do_not_reach_the_next_sequence_of_a_slot(model: GPT, tokenizer: Tokenizer) -> None:
    """One token's vector holds no numbers. Beside a longer row, a slot is read beyond the end of its own sequence."""
    model = copy.deepcopy(model)
    bad, *prompt = range(65, 90)
    model.embed.weight.data[bad] = torch.nan
    requests = [Request(prompt, max_tokens=8, temperature=0), Request(prompt[:2], max_tokens=8, temperature=0)]
    wanted = [Engine(model, tokenizer, runner=TorchRunner(model)).generate([one])[0].ids for one in requests]
    for order in (1, -1):
        engine = Engine(model, tokenizer, runner=TorchRunner(model))
        with pytest.raises(UserError, match="not finite"):
            engine.generate([Request([*prompt[:5], bad, *prompt[5:9]])])
        assert [answer.ids for answer in engine.generate(requests[::order])] == wanted[::order]
