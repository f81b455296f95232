"""Chatting in a terminal: streamed answers, tool calls dimmed, Ctrl-C stops an answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

from nanochat.conversation import Conversation, Message, Part, PartType
from nanochat.inference import Engine, Request, Token, fit_conversation
from nanochat.serve.line import clean, is_terminal, open_lines, printable
from nanochat.serve.shown import between

HELP = "Ctrl-C stops an answer, 'clear' begins a new conversation, 'quit' leaves."
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Terminal:
    """A conversation, or with `chat=False` plain continuation of text, with the settings of `request`.

    `request` is a template whose prompt is replaced; its seed grows by one with every answer.
    """

    def __init__(self, engine: Engine, request: Request, chat: bool = True) -> None:
        self.engine = engine
        self.request = request
        self.chat = chat
        self.messages: list[Message] = []
        self._dim = is_terminal(sys.stdout)

    def answer(self, text: str) -> None:
        """Print the answer to `text` as it comes, and keep both in the conversation."""
        if self.chat:
            self.messages.append(Message.of("user", text))
            prompt = fit_conversation(
                self.engine.tokenizer,
                Conversation(tuple(self.messages)),
                self.engine.window,
                self.request.max_tokens,
            )
        else:
            prompt = [self.engine.tokenizer.bos, *self.engine.tokenizer.encode(text)]
            self._write(text)
        parts = self._print(self.engine.stream(replace(self.request, prompt=prompt)))
        self.request = replace(self.request, seed=self.request.seed + 1)
        if self.chat:
            self.messages.append(Message("assistant", tuple(parts)))

    def loop(self) -> None:
        """Answer question after question until quit, exit, Ctrl-D, or Ctrl-C at an empty prompt."""
        lines = open_lines()
        print(HELP + lines.keys)
        while True:
            try:
                text = clean(lines.ask("\nyou: " if self.chat else "\ntext: ")).strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if text.lower() in ("quit", "exit"):
                return
            if text.lower() == "clear":
                self.messages.clear()
                print("a new conversation")
            elif text:
                lines.remember(text)
                self.answer(text)

    def _print(self, tokens: Iterator[Token]) -> list[Part]:
        """Write tokens as they come; return the parts of the answer, cut off at Ctrl-C."""
        parts: list[Part] = []
        kind: PartType = "text"
        begins = True  # the next text begins a part
        try:
            for token in tokens:
                if token.kind == "special":
                    begins = True
                elif token.text:
                    if begins:
                        self._write(between(kind, token.kind), dim=True)
                        kind = token.kind
                        parts.append(Part(kind, ""))
                        begins = False
                    parts[-1] = Part(kind, parts[-1].text + token.text)
                    self._write(printable(token.text), dim=kind != "text")
            self._write(between(kind, "text"), dim=True)
        except KeyboardInterrupt:
            self._write(" [stopped]", dim=True)
        print()
        return parts

    def _write(self, text: str, dim: bool = False) -> None:
        print(f"{DIM}{text}{PLAIN}" if dim and self._dim and text else text, end="", flush=True)
