"""Your own conversations, from a file with one conversation on each line; OpenAI's fine-tuning files work too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.conversation import Conversation
from nanochat.corpus import PARQUET_MAGIC, Tally, conversation_of, head_of, json_rows, marked_bad, parquet_rows
from nanochat.tasks.task import check_index

ASKED = 4  # own questions in the conversation at the end
LONGEST_QUESTION = 200  # characters
SHAPE = 'Each line is {"messages": [{"role": "user", "content": "..."}, ...]} or the bare list of messages'


class CustomJSON:
    """A file of conversations (jsonl, json or parquet, also compressed), all checked first, so that training does not
    stop at a bad one.

    marked_bad: answers of the page's feedback.jsonl that are left out: they were marked bad and not corrected.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        try:
            if self.path.exists() and not self.path.is_file():
                what = "a folder" if self.path.is_dir() else "a pipe or device, which can be read only once"
                raise UserError(f"{self.path} is {what}", "Give the path of a file with conversations")
            found = []
            self.marked_bad = 0
            for place, row in _rows(self.path):
                if marked_bad(row):
                    self.marked_bad += 1
                else:
                    found.append((place, _parse(row, place)))
        except ValueError as error:  # no path can have a zero byte
            raise UserError(f"cannot read {str(self.path)!r}: {error}", "Check the path") from None
        self.places = [place for place, _ in found]  # "line 3 of FILE", of each conversation
        self.conversations = [conversation for _, conversation in found]
        if not found and self.marked_bad:
            problem = f"{self.path} holds nothing to learn: {bad_left_out(self.marked_bad)}"
            raise UserError(problem, "Correct some of them on the page, or mark answers good")
        if not found:
            raise UserError(f"{self.path} holds no conversation", SHAPE)

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, i: int) -> Conversation:
        return self.conversations[check_index(i, len(self))]


def beginnings(conversations: Iterable[Conversation], count: int = ASKED) -> list[Conversation]:
    """A few with short first questions, each up to its first answer, spread over all."""
    short: dict[str, Conversation] = {}
    for one in conversations:
        asked = 1 + (one.messages[0].role == "system")
        text = one.messages[asked - 1].text.strip() if len(one.messages) > asked else ""
        if 0 < len(text) <= LONGEST_QUESTION and text.isprintable():
            short.setdefault(text, Conversation(one.messages[: asked + 1]))
    found = list(short.values())
    count = min(count, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def bad_left_out(count: int) -> str:
    were = "answer that was" if count == 1 else "answers that were"
    return f"{count:,} {were} marked bad and not corrected {'is' if count == 1 else 'are'} left out"


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix.lower() == ".parquet" or head_of(path).startswith(PARQUET_MAGIC):
        return parquet_rows(path, ("messages",), Tally())
    return json_rows(path, Tally())


def _parse(row: Any, place: str) -> Conversation:
    if isinstance(row, Mapping) and "messages" not in row:
        raise UserError(f"{place} has no messages, but {', '.join(map(repr, row)) or 'nothing'}"[:200], SHAPE)
    messages = row["messages"] if isinstance(row, Mapping) else row
    try:
        conversation = conversation_of(messages)
    except UserError as error:
        raise UserError(f"{place}: {error.problem}", error.remedy or SHAPE) from None
    if conversation.messages[-1].role != "assistant":
        raise UserError(f"{place}: the last message is not the assistant's", "End with an answer to learn")
    return conversation
