"""Runners that compute no model: one whose every mistake shows, and one that says what it is told to say."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nanochat.inference import Engine
from nanochat.inference.runner import Chunk
from nanochat.model import ModelConfig
from nanochat.tokenizer import Tokenizer


class Model(torch.nn.Module):
    """What an engine reads of a model. `weight` is all that it has learnt."""

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, vocab_size: int, seq_len: int = 64) -> None:
        super().__init__()
        self.config = ModelConfig(depth=1, width=4, heads=1, kv_heads=1, vocab_size=vocab_size, seq_len=seq_len)
        self.weight = torch.nn.Parameter(torch.zeros(1))


class Slots:
    """Keeps the ids of every slot, and refuses what no runner could do. `computed` counts tokens."""

    name = "a fake"

    def __init__(self, model: Model, chunk: int = 16) -> None:
        self.model = model
        self.chunk = chunk
        self.slots = self.length = 0
        self.held: list[list[int]] = []
        self.computed = self.copied = self.steps = 0
        self.largest = 0  # of the steps, in tokens that belong to chunks of several

    def grow(self, slots: int, length: int) -> None:
        assert length <= self.model.config.seq_len
        self.slots, self.length = max(self.slots, slots), max(self.length, length)
        self.held += [[] for _ in range(self.slots - len(self.held))]

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        assert 0 < length <= len(self.held[source]) and source not in targets
        for target in targets:
            self.held[target] = self.held[source][:length]
            self.copied += length

    def clear(self, slot: int) -> None:
        self.held[slot] = []

    def refresh(self) -> None:
        self.held = [[] for _ in self.held]

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        assert chunks and len({chunk.slot for chunk in chunks}) == len(chunks)
        self.steps += 1
        for chunk in chunks:
            held = self.held[chunk.slot]
            assert chunk.ids and chunk.start <= len(held)
            assert chunk.before == (held[chunk.start - 1] if chunk.start else -1)
            held[chunk.start :] = chunk.ids
            assert len(held) <= self.length
            self.computed += len(chunk.ids)
        self.largest = max(self.largest, sum(len(chunk.ids) for chunk in chunks if len(chunk.ids) > 1))
        wanted = []
        for chunk in chunks:
            held = self.held[chunk.slot]
            assert 0 <= chunk.wanted <= len(chunk.ids)
            wanted += [self.logits(held[:end]) for end in range(len(held) - chunk.wanted + 1, len(held) + 1)]
        return torch.stack(wanted) if wanted else torch.empty(0, self.model.config.vocab_size)

    def logits(self, ids: list[int]) -> Tensor:
        raise NotImplementedError


class Hashed(Slots):
    """Logits are random numbers seeded by the whole sequence and the weight; `likely` ids have larger ones."""

    likely: Sequence[int] = ()

    def logits(self, ids: list[int]) -> Tensor:
        seed = zlib.crc32(array("q", [*ids, int(self.model.weight)]).tobytes())
        numbers = np.random.default_rng(seed).standard_normal(self.model.config.vocab_size, dtype=np.float32) * 4
        numbers[self.likely] += 13
        return torch.from_numpy(numbers)


class Parrot(Slots):
    """The next token depends on the position alone: `script`, from position `start` on."""

    def __init__(self, model: Model, script: list[int], start: int) -> None:
        super().__init__(model)
        self.script, self.start = script, start

    def logits(self, ids: list[int]) -> Tensor:
        logits = torch.zeros(self.model.config.vocab_size)
        logits[self.script[min(max(len(ids) - self.start, 0), len(self.script) - 1)]] = 50.0
        return logits


def hashed(tokenizer: Tokenizer, max_batch: int = 32, seq_len: int = 64, chunk: int = 16) -> tuple[Engine, Hashed]:
    model = Model(tokenizer.vocab_size, seq_len)
    runner = Hashed(model, chunk)
    # So that there are many tool calls, some with a result, and answers that end by themselves.
    fences = [tokenizer.special(f"<|python_{which}|>") for which in ("start", "end")]
    runner.likely = [*fences, *(tokenizer.ranks[digit] for digit in (b"3", b"7"))]
    return Engine(model, tokenizer, max_batch, runner=runner), runner  # type: ignore[arg-type]


def parrot(tokenizer: Tokenizer, script: list[int], prompt: int = 1, seq_len: int = 128) -> Engine:
    model = Model(tokenizer.vocab_size, seq_len)
    return Engine(model, tokenizer, runner=Parrot(model, script, prompt))  # type: ignore[arg-type]
