"""Chatting in a terminal: question after question, and commands between them."""

from __future__ import annotations

from nanochat.console import UserError, say
from nanochat.serve.line import clean, open_lines
from nanochat.serve.slash import LEAVE, Slash
from nanochat.serve.talk import Talk

HELP = "Ctrl-C stops an answer, 'clear' begins a new conversation, 'quit' leaves, '/help' lists all commands."
LONGEST_ERROR = 500  # characters


class Terminal(Talk):
    """A conversation with the person at the terminal, or with a script."""

    def loop(self) -> None:
        """Answer question after question until quit, exit, Ctrl-D, or Ctrl-C at an empty prompt."""
        lines = open_lines()
        slash = Slash(self, lines)
        print(HELP + lines.keys)
        while True:
            try:
                text = clean(lines.ask("\nyou: " if self.chat else "\ntext: ")).strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if text.lower() in LEAVE:
                return
            try:
                if text.lower() == "clear":
                    self.clear()
                elif text.startswith("/") and not text.startswith("//"):
                    slash.obey(text)
                elif text:
                    lines.remember(text)
                    self.answer(text[1:] if text.startswith("//") else text)
            except KeyboardInterrupt:
                print("[stopped]")
            except UserError as error:
                # Where the answers are, so that a script's output shows which line was not understood.
                say(f"error: {error.for_flags(())}".replace("\n", " ")[:LONGEST_ERROR])
