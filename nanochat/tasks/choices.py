"""Multiple choice: ARC and MMLU. The answer is a letter, shown after its choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from nanochat.conversation import Conversation
from nanochat.tasks.parquet import Rows
from nanochat.tasks.task import Kind, Split, check_index

LETTERS = "ABCDEFGHIJ"


def prompt(question: str, choices: list[str], letters: tuple[str, ...]) -> str:
    """The question, its choices, each followed by a letter, and how to answer."""
    # The letter follows without a space, so that it is the same token as in the answer.
    lines = "".join(f"- {choice}={letter}\n" for choice, letter in zip(choices, letters, strict=True))
    return f"Multiple Choice question: {question}\n{lines}\nRespond only with the letter of the correct answer."


class _Choices(ABC):
    kind: Kind = "categorical"
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @abstractmethod
    def _item(self, i: int) -> tuple[str, list[str], tuple[str, ...], str]:
        """Question, choices, their letters, the right letter."""

    def __getitem__(self, i: int) -> Conversation:
        question, choices, letters, right = self._item(check_index(i, len(self)))
        messages = [
            {"role": "user", "content": prompt(question, choices, letters)},
            {"role": "assistant", "content": right},
        ]
        return Conversation.from_dict({"messages": messages})

    def source(self, i: int) -> str:
        """The question and the right choice, as ordinary text would have them."""
        question, choices, letters, right = self._item(i)
        return f"{question} {choices[letters.index(right)]}"

    def letters(self, i: int) -> tuple[str, ...]:
        return self._item(i)[2]

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        return {"right": answer.strip() == self._item(i)[3]}


class ARC(_Choices):
    """Science questions of the AI2 Reasoning Challenge."""

    def __init__(self, subset: Literal["Easy", "Challenge"], split: Split = "test") -> None:
        self.name = f"ARC-{subset}"
        self.rows = Rows("allenai/ai2_arc", f"ARC-{subset}/{split}-", ("question", "choices", "answerKey"))

    def _item(self, i: int) -> tuple[str, list[str], tuple[str, ...], str]:
        row = self.rows[i]
        labels: list[str] = row["choices"]["label"]
        return row["question"], row["choices"]["text"], tuple(labels), row["answerKey"]


class MMLU(_Choices):
    """Exam questions of 57 subjects; graded by subject too. Its training set is made of other exams."""

    name = "MMLU"

    def __init__(self, split: Split = "test") -> None:
        self.nested = split == "train"
        if self.nested:
            self.rows = Rows("cais/mmlu", "auxiliary_train/train-", ("train",))
        else:
            self.rows = Rows("cais/mmlu", "all/test-", ("question", "subject", "choices", "answer"))

    def _row(self, i: int) -> dict[str, Any]:
        row = self.rows[i]
        return dict(row["train"]) if self.nested else row

    def _item(self, i: int) -> tuple[str, list[str], tuple[str, ...], str]:
        row = self._row(i)
        letters = tuple(LETTERS[: len(row["choices"])])
        return row["question"], row["choices"], letters, letters[row["answer"]]

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        right = answer.strip() == self._item(i)[3]
        subject = str(self._row(i).get("subject") or "")
        return {"right": right, subject: right} if subject else {"right": right}
