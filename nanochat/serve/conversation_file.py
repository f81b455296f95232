"""A conversation in a file: one line of JSON, so that such files one after the other are a data set, too."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from nanochat.console import UserError
from nanochat.conversation import SHAPE, Conversation, Message, Part
from nanochat.paths import write_atomic
from nanochat.reading import MB, parse_json, read_text
from nanochat.serve.line import clean

MOST = 16 * MB


def path_of(text: str) -> Path:
    """The file that a person named, perhaps in quotes."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    name = text[1:-1] if quoted else text
    if not name:
        raise UserError("no file is named", "Write its name behind the command, as in /save chat.json")
    return Path(os.path.expanduser(name))


def save(conversation: Conversation, path: Path, overwrite: bool = False) -> None:
    """UserError where there is a file already and it is not to be overwritten."""
    line = json.dumps(conversation.to_dict(), ensure_ascii=False) + "\n"
    if os.path.lexists(path):
        if not os.path.isfile(path):
            raise UserError(f"{path} is {'a folder' if os.path.isdir(path) else 'no ordinary file'}", "Name a file")
        if not overwrite:
            raise UserError(f"{path} exists", "Save under another name, or remove that file")
        write_atomic(path.resolve(), line)
        return
    try:
        with open(path, "xb") as file:  # and not write_atomic, which would replace a file that came just now
            try:
                file.write(line.encode())
                file.flush()
            except BaseException:
                path.unlink()
                raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", "Choose another file") from None


def load(path: Path) -> Conversation:
    """The conversation in a file. UserError says what is wrong with the file."""
    remedy = f"Name a file that /save wrote; {SHAPE}"
    try:
        found = parse_json(read_text(path, MOST).removeprefix("\ufeff"))
        return _cleaned(Conversation.from_dict(found))
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8", remedy) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", remedy) from None
    except ValueError as error:
        raise UserError(f"cannot load {path}: {error}", remedy) from None
    except UserError as error:
        raise UserError(f"{path} holds no conversation: {error.problem}", error.remedy or SHAPE) from None


def _cleaned(conversation: Conversation) -> Conversation:
    """As if it had been typed here."""
    return Conversation(
        tuple(
            replace(message, parts=tuple(Part(part.type, clean(part.text)) for part in message.parts))
            for message in conversation.messages
        )
    )


def with_system(messages: list[Message], text: str) -> list[Message]:
    """The messages with `text` as their system message, or with none if it is empty."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    return [Message.of("system", text), *turns] if text else list(turns)
