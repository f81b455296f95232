"""A conversation and its answers, drawn on a terminal as they come: tool calls dimmed, Ctrl-C stops an answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nanochat.console import UserError, say, warn
from nanochat.conversation import Conversation, Message, Part, PartType
from nanochat.inference import Engine, Request, Token, Visible, fit_ids, newest_exchanges, visible
from nanochat.serve.conversation_file import with_system
from nanochat.serve.drawing import Drawing, Plain, draws
from nanochat.serve.line import is_terminal, printable
from nanochat.serve.shown import between
from nanochat.serve.talk_settings import settings_of


class Talk:
    """A conversation, or with `chat=False` plain continuation of text, with the settings of `request`.

    `request` is a template whose prompt is replaced; its seed grows by one with every answer. messages: what has been
    said, perhaps after a system message; a question at their end has no answer yet, and the next one replaces it.
    """

    def __init__(self, engine: Engine, request: Request, chat: bool = True, system: str = "") -> None:
        self.engine = engine
        self.request = request
        self.chat = chat
        self.messages: list[Message] = with_system([], system)
        self.at_terminal = is_terminal(sys.stdin) and is_terminal(sys.stdout)
        self._continued = ""  # the text that a base model has continued
        self._draws = chat and draws(sys.stdout)

    @property
    def system(self) -> str:
        return self.messages[0].text if self.messages and self.messages[0].role == "system" else ""

    @property
    def turns(self) -> list[Message]:
        """All messages but the system message."""
        return with_system(self.messages, "")

    def answer(self, text: str) -> bool:
        """Print the answer to `text` as it comes, and keep both in the conversation; return whether it was not
        stopped."""
        if self.chat:
            return self._reply(self._asked(text))
        self._continued = text
        _write(printable(text))
        return self._print(self._prompt(text))[1]

    def answer_again(self) -> bool:
        """Replace the last answer by another one. UserError where nothing was asked."""
        if not self.chat and self._continued:
            return self.answer(self._continued)
        if not self.turns:
            raise UserError("there is no question to answer again", "Ask something first")
        return self._reply(self.messages[: -1 if self.messages[-1].role == "assistant" else None])

    def told(self, text: str) -> dict[str, Any]:
        """The answer to `text`, and how it came about, for a program to read. Keeps nothing."""
        ids = self._prompt(self._asked(text) if self.chat else text)
        request = replace(self.request, prompt=self._fitted(ids))
        began = time.perf_counter()
        completion = self.engine.generate([request])[0]
        return {
            "answer": "".join(part.text for part in visible(completion.parts) if part.type == "text"),
            "parts": [{"type": part.type, "text": part.text} for part in completion.parts],
            "finish": completion.finish,
            "tokens": len(completion.ids),
            "prompt_tokens": len(request.prompt),
            "seconds": round(time.perf_counter() - began, 3),
            "settings": settings_of(request),
        }

    def clear(self) -> None:
        self.messages = with_system([], self.system)
        self._continued = ""
        say("a new conversation")

    def show_last(self) -> None:
        """Print the last question and its answer."""
        *_, question = (message for message in self.messages if message.role == "user")
        say(f"\nyou: {question.text}")
        if self.messages[-1].role == "user":
            say("This question has no answer yet: /regen answers it, and another question replaces it.")
        else:
            kinds = (Token(0, part.text, part.type, 0) for part in self.messages[-1].parts)
            self._draw(token for part in kinds for token in (Token(0, "", "special", 0), part))

    def _asked(self, text: str) -> list[Message]:
        pending = self.messages and self.messages[-1].role == "user"
        return [*self.messages[: -1 if pending else None], Message.of("user", text)]

    def _prompt(self, asked: list[Message] | str) -> list[int]:
        """Ids of a text, or of a conversation, whose oldest exchanges are left out as they must be."""
        tokenizer = self.engine.tokenizer
        if isinstance(asked, str):
            return [tokenizer.bos, *tokenizer.encode(asked)]
        conversation = Conversation(tuple(asked))
        return self._fitted(newest_exchanges(tokenizer, conversation, self.engine.window, self.request.max_tokens))

    def _fitted(self, prompt: list[int]) -> list[int]:
        fitted = fit_ids(prompt, self.engine.tokenizer.bos, self.engine.window, self.request.max_tokens)
        if left := len(prompt) - len(fitted):
            warn(f"note: this is too long for the model; the first {left:,} of {len(prompt):,} tokens are left out")
        return fitted

    def _reply(self, asked: list[Message]) -> bool:
        parts, whole = self._print(self._prompt(asked))
        if parts or whole:
            self.messages = [*asked, Message("assistant", tuple(parts) or (Part("text", ""),))]
        elif self.messages[: len(asked)] != asked:  # else an older answer stays
            self.messages = asked
        return whole

    def _print(self, prompt: list[int]) -> tuple[list[Part], bool]:
        request = replace(self.request, prompt=prompt)
        self.request = replace(self.request, seed=self.request.seed + 1)
        return self._draw(self.engine.stream(request))

    def _draw(self, tokens: Iterator[Token]) -> tuple[list[Part], bool]:
        """Write tokens as they come; return the parts of the answer, cut off at Ctrl-C, and whether it was not."""
        drawing = Drawing(sys.stdout.encoding) if self._draws else Plain()
        parts: list[Part] = []
        begins = True  # the next text begins a part
        whole = True
        seen = Visible()
        kind: PartType = "text"  # of what is drawn

        def draw(tokens: list[Token]) -> None:
            nonlocal kind
            begins = False
            for token in tokens:
                if token.kind == "special":
                    begins = True
                    continue
                if begins or token.kind != kind:
                    _write(drawing.aside(between(kind, token.kind)))
                    kind, begins = token.kind, False
                _write((drawing.feed if kind == "text" else drawing.aside)(token.text))

        try:
            for token in tokens:
                if token.kind == "special":
                    begins = True
                elif token.text:
                    if begins:
                        parts.append(Part(token.kind, ""))
                        begins = False
                    parts[-1] = Part(token.kind, parts[-1].text + token.text)
                draw(seen.feed(token))
            draw(seen.end())
            _write(drawing.aside(between(kind, "text")))
        except KeyboardInterrupt:
            whole = False
        _write(drawing.end() + ("" if whole else drawing.aside(" [stopped]")))
        print()
        return parts, whole


def _write(text: str) -> None:
    print(text, end="", flush=True)
