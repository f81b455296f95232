"""What a task is: conversations whose last message is the right answer, a way to grade other answers, and optional
abilities."""

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
    """Conversations that can also be graded: all that every task must do. The classes below are optional abilities.

    `grade` returns marks by name: the first decides the accuracy, each is a row of its own in the results.
    """

    kind: Kind

    def grade(self, i: int, answer: str) -> dict[str, bool]: ...


@runtime_checkable
class WithLetters(Protocol):
    """What a task of the kind "categorical" must also have: the answers to choose from, each one token."""

    def letters(self, i: int) -> tuple[str, ...]: ...


@runtime_checkable
class WithReward(Protocol):
    """A task that rewards in degrees. For any other task, the reward is the first mark, 0 or 1."""

    def reward(self, i: int, answer: str) -> float: ...


@runtime_checkable
class WithBaseline(Protocol):
    """A task that knows, by mark, the score in [0, 1] of always giving the commonest answer."""

    def baseline(self) -> dict[str, float]: ...


@runtime_checkable
class WithGrading(Protocol):
    """A task whose grading has changed. `grading` is a number that rises with every change, so that no score is
    compared with an older one."""

    grading: int


def check_index(i: int, size: int) -> int:
    """The index itself; IndexError outside of [0, size), so that plain iteration ends."""
    if not 0 <= i < size:
        raise IndexError(i)
    return i
