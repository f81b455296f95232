"""GSM8K: word problems of grade school, solved with the calculator."""

from __future__ import annotations

import re

from nanochat.tasks.parquet import Rows
from nanochat.tasks.task import Kind, Split, check_index
from nanochat.tokenizer.conversation import Conversation

_CALL = re.compile(r"<<([^<>]*)>>")
_FINAL = re.compile(r"####\s*(-?[\d,]*\.?\d+)")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def tool_parts(solution: str) -> list[dict[str, str]]:
    """The solution with each `<<48/2=24>>` as a call of the calculator and its output."""
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(_CALL.split(solution)):
        if i % 2 == 0:
            if piece:
                parts.append({"type": "text", "text": piece})
            continue
        expression, _, result = piece.rpartition("=")
        parts.append({"type": "python", "text": expression})
        parts.append({"type": "python_output", "text": result})
    return parts


def final_number(text: str) -> str | None:
    """The number after `####`, else the last one in the text, without commas and needless zeros."""
    marked = _FINAL.findall(text)
    numbers = marked or _NUMBER.findall(text)
    if not numbers:
        return None
    number = str(numbers[-1]).replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


class GSM8K:
    name = "GSM8K"
    kind: Kind = "generative"

    def __init__(self, split: Split = "test") -> None:
        self.rows = Rows("openai/gsm8k", f"main/{split}-", ("question", "answer"))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Conversation:
        row = self.rows[check_index(i, len(self))]
        messages = [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": tool_parts(row["answer"])},
        ]
        return Conversation.from_dict({"messages": messages})

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        right = final_number(self.rows[i]["answer"])
        return {"right": right is not None and final_number(answer) == right}
