"""Commands inside a conversation in the terminal: words that begin with a slash."""

from __future__ import annotations

import difflib
import os
import re
from typing import Any

from nanochat.console import UserError, say
from nanochat.conversation import Conversation
from nanochat.serve.conversation_file import load, path_of, save, with_system
from nanochat.serve.line import Lines
from nanochat.serve.talk import Talk
from nanochat.serve.talk_settings import SETTINGS, changed, settings_of

LEAVE = ("quit", "exit", "/quit", "/exit")
HELP = f"""\
/system TEXT      what the model is told before everything else; without TEXT: show it; /system "": none
/clear            begin a new conversation; system message and settings stay
/save FILE        write the conversation to a file
/load FILE        go on with the conversation of a file
/regen            answer the last question again, with the next seed
/set NAME VALUE   {", ".join(SETTINGS)}; without VALUE: show
/help             this list
/quit             leave
//TEXT            send /TEXT as a question
Ctrl-C stops an answer. 'clear', 'quit' and 'exit' need no slash."""


def nearest(word: str, words: list[str]) -> str:
    """The one of `words` that was probably meant."""
    begun = [one for one in words if word and one.startswith(word)]
    return (begun or difflib.get_close_matches(word, words, n=1, cutoff=0))[0]


class Slash:
    """Obeys the commands in a conversation. lines: what the person is asked with."""

    def __init__(self, talk: Talk, lines: Lines) -> None:
        self.talk = talk
        self.lines = lines
        self._commands = {
            "system": self._system,
            "clear": self._clear,
            "save": self._save,
            "load": self._load,
            "regen": self._regen,
            "set": self._set,
            "help": self._help,
        }

    def obey(self, text: str) -> None:
        """Do what `text` says, which begins with a slash; UserError when that cannot be done."""
        name, rest = [*re.split(r"\s+", text[1:], maxsplit=1), ""][:2]
        command = self._commands.get(name.lower())
        if command is None:
            meant = nearest(name.lower()[:40], [*self._commands, "quit", "exit"])
            raise UserError(
                f"unknown command /{name:.40}; the nearest is /{meant}",
                "/help lists all, and //TEXT sends a text that begins with a slash",
            )
        command(rest.strip())

    def _system(self, text: str) -> None:
        self._require_chat()
        if not text:
            system = self.talk.system
            say(f"system message: {system}" if system else "there is no system message")
            return
        text = "" if text in ('""', "''") else text
        self.talk.messages = with_system(self.talk.messages, text)
        say("the system message is set" if text else "no system message any more")

    def _clear(self, _: str) -> None:
        self.talk.clear()

    def _save(self, text: str) -> None:
        self._require_chat()
        path = path_of(text)
        conversation = Conversation(tuple(self.talk.messages))
        if not self.talk.turns:
            raise UserError("there is nothing to save yet", "Ask something first")
        may_ask = self.talk.at_terminal and os.path.isfile(path)
        save(conversation, path, may_ask and self._agreed(f"{path} exists. Replace it? [y/N] "))
        say(f"saved {_counted(self.talk.turns)} to {path}")

    def _load(self, text: str) -> None:
        self._require_chat()
        path = path_of(text)
        self.talk.messages = list(load(path).messages)
        say(f"loaded {_counted(self.talk.turns)} from {path}")
        if self.talk.system:
            say(f"system message: {self.talk.system}")
        self.talk.show_last()

    def _regen(self, _: str) -> None:
        self.talk.answer_again()

    def _set(self, text: str) -> None:
        name, value = [*re.split(r"[\s=]+", text, maxsplit=1), ""][:2]
        name = name.lower().replace("-", "_")
        if name and name not in SETTINGS:
            raise UserError(
                f"unknown setting {name:.40}; the nearest is {nearest(name, list(SETTINGS))}", "/set shows all of them"
            )
        if value:
            self.talk.request = changed(self.talk.request, name, value)
        found = settings_of(self.talk.request)
        for one in [name] if name else SETTINGS:
            say(f"{one} = {found[one]}")

    def _help(self, _: str) -> None:
        say(HELP)

    def _agreed(self, question: str) -> bool:
        try:
            return self.lines.ask(question).strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False

    def _require_chat(self) -> None:
        if not self.talk.chat:
            raise UserError("a base model continues text, and has no conversation", "Chat with a later stage: -i sft")


def _counted(messages: list[Any]) -> str:
    return f"{len(messages)} message{'s' * (len(messages) != 1)}"
