"""One's own conversations for fine-tuning: read and checked, some held out, written where the stages read them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat.console import UserError
from nanochat.conversation import Conversation
from nanochat.paths import replace_folder, slug
from nanochat.tasks import CustomJSON, beginnings
from nanochat.tokenizer import Tokenizer, render_conversation

OWN, HELD_OUT = "own.jsonl", "held-out.jsonl"


@dataclass(frozen=True)
class OwnChats:
    """names: of the files, without folders. marked_bad: answers left out, see CustomJSON."""

    names: tuple[str, ...]
    conversations: tuple[Conversation, ...]
    marked_bad: int = 0

    @classmethod
    def read(cls, paths: Sequence[str]) -> OwnChats:
        """UserError for what is no conversation, with file and line; every file is read before anything else begins."""
        if not paths:
            raise UserError(
                "there are no conversations to learn", "Add --data FILE, with one conversation on each line"
            )
        files = [CustomJSON(path) for path in dict.fromkeys(paths)]
        found = tuple(conversation for file in files for conversation in file.conversations)
        return cls(tuple(file.name for file in files), found, sum(file.marked_bad for file in files))

    @property
    def hash(self) -> str:
        """16 hex digits that identify the conversations and their order."""
        digest = hashlib.sha256()
        for line in _lines(self.conversations):
            digest.update(line)
        return digest.hexdigest()[:16]

    def split(self, held_out: int) -> tuple[list[Conversation], list[Conversation]]:
        """Those to train on and those held out: the same ones whenever there are as many."""
        if held_out >= len(self.conversations):
            problem = f"of {len(self.conversations)} conversations, {held_out} cannot be held out"
            raise UserError(problem, "Give a smaller --held_out, or 0")
        chosen = set(random.Random(f"held out:{len(self.conversations)}").sample(range(len(self)), held_out))
        train = [one for n, one in enumerate(self.conversations) if n not in chosen]
        return train, [self.conversations[n] for n in sorted(chosen)]

    def __len__(self) -> int:
        return len(self.conversations)

    def teaching(self, tokenizer: Tokenizer, context: int) -> tuple[OwnChats, int, int]:
        """Those with an answer that begins within the context, their tokens in it, and how many of them are cut."""
        kept, tokens, cut = [], 0, 0
        for one in self.conversations:
            ids, mask = render_conversation(tokenizer, one)
            if any(mask[: context + 1]):
                kept.append(one)
                tokens += min(len(ids), context + 1)
                cut += len(ids) > context + 1
        return OwnChats(self.names, tuple(kept)), tokens, cut

    def prompts(self) -> list[Conversation]:
        """A few short beginnings up to the first answer, spread over the files."""
        return [one.without_last() for one in beginnings(self.conversations)]


def name_of(chats: OwnChats, source: str) -> str:
    """A tag such as d4-chats, of letters, digits and hyphens."""
    stem = chats.names[0].split(".")[0]
    parts = (_ascii(part) for part in (source, stem))
    return "-".join(part for part in parts if part) or "chats"


def _ascii(text: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c == ".") else "-" for c in slug(text.replace(".", "-")))
    return "-".join(filter(None, kept.split("-")))[:40].strip("-.")


def write(
    folder: Path,
    train: Iterable[Conversation],
    out: Sequence[Conversation],
    recipes: Mapping[str, str],
    do: bool = True,
) -> Path:
    """A folder below `folder`, named by its content, with the files and the stages' mixtures. recipes: by file name.
    do: False for only naming it."""
    files = {OWN: b"".join(_lines(train)), **({HELD_OUT: b"".join(_lines(out))} if out else {})}
    files |= {name: text.encode() for name, text in recipes.items()}
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}:{len(data)}:".encode() + data)
    target = folder / digest.hexdigest()[:12]
    if do and not _holds(target, files):
        with replace_folder(target) as part:
            for name, data in files.items():
                (part / name).write_bytes(data)
    return target


def _holds(folder: Path, files: Mapping[str, bytes]) -> bool:
    try:
        return all((folder / name).read_bytes() == data for name, data in files.items())
    except OSError:
        return False


def _lines(conversations: Iterable[Conversation]) -> Iterable[bytes]:
    return ((json.dumps(one.to_dict()) + "\n").encode() for one in conversations)  # surrogates stay escaped
