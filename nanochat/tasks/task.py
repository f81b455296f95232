"""What a task is: conversations whose last message is the right answer, and a way to grade other answers."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from nanochat.conversation import Conversation

Kind = Literal["generative", "categorical"]
Split = Literal["train", "test"]


@runtime_checkable
class Conversations(Protocol):
    """Anything that can be trained on."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Conversation: ...


@runtime_checkable
class Task(Conversations, Protocol):
    """Conversations that can also be graded.

    `grade` returns marks by name: the first decides the accuracy, each is a row of its own in the results.
    A categorical task also has `letters(i) -> tuple[str, ...]`, the answers to choose from. A task may have
    `baseline() -> dict[str, float]`, the score by mark of always giving the commonest answer, and `grading`, a number
    that moves on when grades change, so that no score is compared with one of before.
    """

    kind: Kind

    def grade(self, i: int, answer: str) -> dict[str, bool]: ...


def check_index(i: int, size: int) -> int:
    """The index itself; IndexError outside of [0, size), so that plain iteration ends."""
    if not 0 <= i < size:
        raise IndexError(i)
    return i
