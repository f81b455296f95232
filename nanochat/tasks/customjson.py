"""Your own conversations, from a file with one conversation on each line."""

from __future__ import annotations

import json
from pathlib import Path

from nanochat.console import UserError
from nanochat.tasks.task import check_index
from nanochat.tokenizer.conversation import Conversation

SHAPE = 'Each line is {"messages": [{"role": "user", "content": "..."}, ...]} or the bare list of messages'


class CustomJSON:
    """A `.jsonl` file of conversations, all checked at once: training must not stop at one of them later."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}", "Check the path") from None
        except UnicodeDecodeError:
            raise UserError(f"{self.path} is not UTF-8 text", "Convert it, for example with iconv") from None
        self.conversations = [self._parse(line, i) for i, line in enumerate(lines, 1) if line.strip()]
        if not self.conversations:
            raise UserError(f"{self.path} holds no conversation", SHAPE)

    def _parse(self, line: str, number: int) -> Conversation:
        where = f"{self.path}, line {number}"
        try:
            data = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})", SHAPE) from None
        try:
            conversation = Conversation.from_dict({"messages": data} if isinstance(data, list) else data)
        except UserError as error:
            raise UserError(f"{where}: {error.problem}", error.remedy or SHAPE) from None
        if conversation.messages[-1].role != "assistant":
            raise UserError(f"{where}: the last message is not the assistant's", "End with an answer to learn")
        return conversation

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, i: int) -> Conversation:
        return self.conversations[check_index(i, len(self))]
