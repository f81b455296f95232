"""What ranks send each other for an update: gradients to their owners, and updated weights back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Named so from torch 2.13 on; the older names mean the same.
REDUCE_SCATTER = "reduce_scatter_single" if hasattr(dist, "reduce_scatter_single") else "reduce_scatter_tensor"
ALL_GATHER = "all_gather_single" if hasattr(dist, "all_gather_single") else "all_gather_into_tensor"

Wait = Callable[[], Any]


def reduce_scatter(part: Tensor, whole: Tensor) -> Wait:
    """Start summing `whole` over ranks; returns a function that waits until this rank's share of it is in `part`."""
    return _work(getattr(dist, REDUCE_SCATTER)(part, whole, async_op=True))


def all_reduce(whole: Tensor) -> Wait:
    return _work(dist.all_reduce(whole, async_op=True))


def all_gather(whole: Tensor, part: Tensor) -> Wait:
    """part: may be this rank's own place in `whole`."""
    return _work(getattr(dist, ALL_GATHER)(whole, part, async_op=True))


def _work(work: Any) -> Wait:
    wait: Wait = work.wait
    return wait


class Share:
    """This rank's part of a flat tensor of `size` numbers, padded so that all parts are equal."""

    def __init__(self, size: int, rank: int, world: int):
        self.part = -(-size // world)
        self.padded = self.part * world
        self.place = slice(rank * self.part, (rank + 1) * self.part)  # in the padded tensor
        self.begin, self.end = min(rank * self.part, size), min((rank + 1) * self.part, size)


class Reductions:
    """A step's sums over ranks. Each is begun as soon as its gradients are complete, while the backward pass goes on.

    All ranks begin them in the order of this queue: their passes may differ in number, or a rank may have none.
    """

    def __init__(self) -> None:
        self._begin: list[Callable[[], Wait]] = []
        self._needed: list[int] = []  # gradients that a sum waits for
        self._missing: list[int] = []
        self._waits: list[Wait] = []  # of those begun
        self._armed = False

    def add(self, gradients: int, begin: Callable[[], Wait]) -> int:
        """begin: starts the sum of so many gradients. Returns its number."""
        self._begin.append(begin)
        self._needed.append(gradients)
        return len(self._begin) - 1

    def arm(self) -> None:
        """The backward pass that comes is the step's last."""
        self._missing, self._armed = list(self._needed), True

    def arrived(self, number: int) -> None:
        """A gradient of this sum has just been added to."""
        if self._armed:
            self._missing[number] -= 1
            while (at := len(self._waits)) < len(self._begin) and self._missing[at] <= 0:
                self._waits.append(self._begin[at]())

    def begin_all(self) -> None:
        """Begin what is left."""
        self._armed = False
        for begin in self._begin[len(self._waits) :]:
            self._waits.append(begin())

    def wait(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._waits[number]()

    def wait_for_begun(self) -> None:
        """Afterwards the gradients that were sent may be overwritten. Those sums stay what they are."""
        self._armed = False
        self.wait(range(len(self._waits)))

    def forget(self) -> None:
        """The step is over."""
        self._waits = []


def merged(ids: Tensor, grads: Tensor, world: int) -> tuple[Tensor, Tensor]:
    """All ranks' rows of a sparse gradient, summed: ids (k,) and gradients (k, width)."""
    if world == 1:
        return ids, grads
    longest = torch.tensor(len(ids), device=ids.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    # Zero padding makes all ranks' parts equally long, and adds nothing to row 0.
    ids, grads = (_gathered(_padded(t, int(longest)), world) for t in (ids, grads))
    ids, places = ids.unique(return_inverse=True)
    return ids, grads.new_zeros((len(ids), grads.size(1))).index_add_(0, places, grads)


def _padded(t: Tensor, length: int) -> Tensor:
    """t padded with zeros to `length` along its first dimension."""
    return t if t.size(0) == length else torch.cat((t, t.new_zeros((length - t.size(0), *t.shape[1:]))))


def _gathered(part: Tensor, world: int) -> Tensor:
    """All ranks' parts, concatenated."""
    whole = part.new_empty((world * part.size(0), *part.shape[1:]))
    all_gather(whole, part.contiguous())()
    return whole
