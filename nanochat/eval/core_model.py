"""What CORE needs of a model: logits of ids after a common front, which is run once. And our GPT in this role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from nanochat.model import GPT
from nanochat.model.cache import KVCache, Rows

Span = tuple[int, int, int]  # a tail's number, its first place, and the one after its last place


@dataclass(frozen=True)
class Group:
    """Ids of one question to run, and the places whose logits are wanted.

    front: ids before every tail, or none. tails: one or more rows of at least one id each. spans: the places wanted;
    a place's logits are for the id after it.
    """

    front: list[int]
    tails: list[list[int]]
    spans: list[Span]

    @property
    def width(self) -> int:
        """Ids of the longest row, its front included."""
        return len(self.front) + max(map(len, self.tails))


class Sizes(Protocol):
    """seq_len: ids that a row may have. vocab_size: the model knows the ids below it.

    The object's str() is a part of the key of kept results.
    """

    @property
    def seq_len(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...


class CoreModel(Protocol):
    """A causal language model, as far as CORE needs it.

    dtype: the compute dtype; its str() is a part of the key of kept results, too.
    """

    @property
    def config(self) -> Sizes: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def answer_logits(self, groups: Sequence[Group]) -> Tensor:
        """Logits (N, vocab_size), float32 or float64, of all places, group by group and span by span.

        Either all groups have a front, or none has one.
        """
        ...


class CoreTokenizer(Protocol):
    """A tokenizer, as far as CORE needs it.

    bos: the id before every prompt. hash: a part of the key of kept results.
    """

    @property
    def bos(self) -> int: ...

    @property
    def hash(self) -> str: ...

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...


class CachedGPT:
    """Our GPT. It runs the fronts first, and gives every tail a copy of its front's cache."""

    def __init__(self, model: GPT):
        self.model = model
        self.config = model.config
        self.dtype = model.dtype

    def answer_logits(self, groups: Sequence[Group]) -> Tensor:
        tails = padded([tail for group in groups for tail in group.tails], self.model.device)
        past = self._past(groups, tails.size(1)) if groups[0].front else None
        return self.model.logits(picked(self.model.hidden(tails, past), groups))

    def _past(self, groups: Sequence[Group], room: int) -> Rows:
        """Rows of `room` ids for all tails, behind their fronts."""
        device = self.model.device
        fronts = padded([group.front for group in groups], device)
        tails = [group.front for group in groups for _ in group.tails]
        cache = KVCache(self.config, len(tails), fronts.size(1) + room, device, self.dtype)
        # A front runs where its first tail will. The ids that follow overwrite its padding.
        firsts = list(accumulate((len(group.tails) for group in groups[:-1]), initial=0))
        self.model.hidden(fronts, cache.continued(firsts, [0] * len(groups), [-1] * len(groups), fronts.size(1)))
        for first, group in zip(firsts, groups, strict=True):
            cache.copy(first, range(first + 1, first + len(group.tails)), len(group.front))
        return cache.continued(range(len(tails)), [len(front) for front in tails], [front[-1] for front in tails], room)


def core_model(model: GPT | CoreModel) -> CoreModel:
    """The model as CORE runs it: a GPT of ours with its cache, any other as it is."""
    return CachedGPT(model) if isinstance(model, GPT) else model


def padded(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(B, T), filled with zeros on the right: a causal model does not see them."""
    width = max(map(len, sequences))
    return torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in sequences]).to(device)


def picked(values: Tensor, groups: Sequence[Group]) -> Tensor:
    """Pick the values (N, C) of the groups' places from those (B, T, C) of all ids of all tails."""
    width = values.size(1)
    found: list[int] = []
    first = 0  # the group's first row
    for group in groups:
        for tail, start, end in group.spans:
            row = (first + tail) * width
            found += range(row + start, row + end)
        first += len(group.tails)
    return values.flatten(0, 1)[torch.tensor(found, dtype=torch.long, device=values.device)]
