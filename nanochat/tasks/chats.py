"""Sets of open-ended conversations: SmolTalk, and whatever stands in for it under `local/chat-mix`."""

from __future__ import annotations

from nanochat.conversation import Conversation
from nanochat.tasks.parquet import Rows
from nanochat.tasks.task import Split, check_index


class _Chats:
    repo: str

    def __init__(self, split: Split = "train", size: int | None = None) -> None:
        self.rows = Rows(self.repo, f"data/{split}-", ("messages",))
        self.size = len(self.rows) if size is None else min(size, len(self.rows))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> Conversation:
        return Conversation.from_dict(self.rows[check_index(i, self.size)])


class SmolTalk(_Chats):
    """General conversations written for small models."""

    name = "SmolTalk"
    repo = "HuggingFaceTB/smol-smoltalk"


class ChatMix(_Chats):
    """Conversations from the user's mirror, in the same layout."""

    name = "ChatMix"
    repo = "local/chat-mix"
