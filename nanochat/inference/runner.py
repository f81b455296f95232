"""What computes tokens: many sequences side by side, each in a slot of a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Chunk:
    """Tokens that continue the sequence in a slot: a piece of a prompt, or the newest token of an answer.

    Whatever the slot holds from `start` on is overwritten. So a sequence is cut short by continuing it
    further in front.
    """

    slot: int
    start: int  # the position of ids[0]: how many tokens of the sequence the slot holds already
    ids: list[int]  # at least one
    before: int  # the token before ids[0], -1 where there is none (start is 0)
    wanted: int = 1  # after how many of the last ids the logits are


class Runner(Protocol):
    """Knows nothing of requests, sampling or text."""

    name: str  # for people
    slots: int  # sequences that it can hold
    length: int  # positions of each
    chunk: int  # tokens that a step takes in one go without waste: longer prompts are given piece by piece

    def step(self, chunks: Sequence[Chunk]) -> Tensor:
        """Logits (n, V), float32 on the model's device, after each id where they are wanted, in their order.

        The slots are different ones. The tensor is the caller's until the next step.
        """
        ...

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Copy the first `length` positions of a slot to other slots."""
        ...

    def clear(self, slot: int) -> None:
        """What a slot holds is worthless, and may be no numbers: they must not reach its next sequence."""
        ...

    def grow(self, slots: int, length: int) -> None:
        """Make room for at least so many sequences of so many positions; what is held stays."""
        ...

    def refresh(self) -> None:
        """The model's weights have changed: take the new ones. What the slots hold is the old ones' and worthless."""
        ...
