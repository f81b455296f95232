"""What of an answer a person is shown: all but the tool calls that have no result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nanochat.conversation import Part
from nanochat.inference.request import Token

BLANKS = " \t\r\n"  # named one by one, since JavaScript's idea of them differs (static/chat/visible.js)


class Visible:
    """Feed it the tokens of one answer, get those to show now, a special one before each part's first; `end` gives the
    last ones.

    A call waits for its result and is left out if none comes, and so is the blank behind it where there is one before.
    Where an answer says nothing else, its calls are shown at the end: better than no answer.
    """

    def __init__(self) -> None:
        self._mark: Token | None = None  # the special token before the next one
        self._call: list[Token] = []  # whose result may still come
        self._unsaid: list[Token] = []  # what has been left out of an answer that has said nothing yet
        self._gap = False  # a call was left out just now
        self._said = False
        self._blank = True  # whether what is shown ends in a blank

    def feed(self, token: Token) -> list[Token]:
        if token.kind == "special":
            self._mark = token
            return []
        if not token.text:
            return []
        marked = [token] if self._mark is None else [self._mark, token]
        begins, self._mark = self._mark is not None, None
        if token.kind == "python":
            if begins:
                self._leave_out()
            self._call += marked
            return []
        if token.kind == "python_output":
            marked = self._call + marked
            self._call, self._unsaid = [], []
            self._gap, self._said, self._blank = False, True, True
            return marked
        self._leave_out()
        return self._text(marked)

    def end(self) -> list[Token]:
        self._leave_out()
        return [] if self._said else self._unsaid

    def _leave_out(self) -> None:
        """The call that waits gets no result."""
        if self._call:
            self._gap = True
            if not self._said:
                self._unsaid += self._call
            self._call = []

    def _text(self, marked: list[Token]) -> list[Token]:
        text = marked[-1].text
        if self._gap and self._blank:
            text = text.lstrip(" " if self._said else BLANKS)
        if not text:
            if not self._said:
                self._unsaid += marked
            elif len(marked) > 1:
                self._mark = marked[0]  # the part is still to begin
            return []
        self._gap = False
        self._blank = text[-1] in BLANKS
        if text.strip(BLANKS):
            self._said, self._unsaid = True, []
        return [*marked[:-1], replace(marked[-1], text=text)]


def visible(parts: Iterable[Part]) -> list[Part]:
    """The same of a whole answer."""
    sieve, seen = Visible(), []
    for part in parts:
        seen += sieve.feed(Token(0, "", "special", 0)) + sieve.feed(Token(0, part.text, part.type, 0))
    found: list[Part] = []
    begins = True
    for token in seen + sieve.end():
        if token.kind == "special":
            begins = True
        elif found and found[-1].type == token.kind and (token.kind == "text" or not begins):
            found[-1] = Part(token.kind, found[-1].text + token.text)
        else:
            found.append(Part(token.kind, token.text))
            begins = False
    return found
