"""Reading what a person types: with a line editor in a terminal, else line by line. No model, no conversation."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from nanochat.console import UserError, warn
from nanochat.paths import base_dir, write_atomic

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPress
    from prompt_toolkit.key_binding.key_processor import KeyPressEvent

KEPT = 1000  # questions in the history
MOST_PIPED = 16_000_000  # characters
SILENT = 3.0  # seconds without an end of the input until a note says that it is being read
BURST = 0.05  # a paste continues within so many seconds after a line end; a person takes longer
ENTER = ("\r", "\n")
AHEAD = "typed ahead"  # data of an Enter key that was pressed before the prompt
KEYS = """
Up, Down and Ctrl-R bring earlier questions back, Alt-Enter begins a new line.
At the prompt Ctrl-C clears the typed text, and leaves if there is none."""


def printable(text: str) -> str:
    """`text` without control characters, which would steer a terminal; line ends and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def clean(text: str) -> str:
    """`text` as a model should read it: printable, line ends as "\\n", and U+FFFD for bytes that were not UTF-8."""
    text = re.sub("[\ud800-\udfff]", "\ufffd", text.removeprefix("\ufeff"))
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def with_piped(prompt: str) -> str:
    """A prompt as a model should read it: with what a pipe or a file gives on standard input after a blank line, or for
    "-" that alone."""
    alone = prompt == "-"
    piped = clean(_read_all(sys.stdin)).strip("\n") if alone or not is_terminal(sys.stdin) else ""
    texts = [text for text in ("" if alone else clean(prompt), piped) if text.strip()]
    return "\n\n".join(texts)


def _read_all(stream: TextIO | None) -> str:
    """All that is to come; "" where nothing can be read."""
    note = threading.Timer(SILENT, warn, ["note: reading standard input to its end; `< /dev/null` gives it none"])
    note.daemon = True
    try:
        if stream is None or stream.closed:
            return ""
        if not is_terminal(stream):
            note.start()
        text = stream.read(MOST_PIPED + 1)
    except OSError:
        return ""
    finally:
        note.cancel()
    if len(text) > MOST_PIPED:
        raise UserError(f"standard input has more than {MOST_PIPED:,} characters", "Give a shorter text")
    return text


def open_lines() -> Lines:
    """The line editor in a terminal that can move its cursor, else plain lines."""
    plain = os.environ.get("TERM", "").lower() in ("dumb", "unknown") or not (
        is_terminal(sys.stdin) and is_terminal(sys.stdout)
    )
    return Lines() if plain else Editor()


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


class Lines:
    """Lines from a pipe, a file, or a simple terminal. keys: help on the keys, shown after all other help."""

    keys = ""

    def ask(self, prompt: str) -> str:
        """The next line; EOFError where there is none."""
        print(prompt, end="", flush=True)
        try:
            line = "" if sys.stdin is None or sys.stdin.closed else sys.stdin.readline()
        except OSError:  # the terminal is gone
            line = ""
        if not line:
            raise EOFError
        return line

    def remember(self, question: str) -> None:
        """Offer `question` when the person looks for earlier ones, also in later conversations."""


class Editor(Lines):
    """A line editor with a history. What is pasted is one text, however many lines it has."""

    keys = KEYS

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession  # takes a while
        from prompt_toolkit.history import InMemoryHistory

        # Otherwise it asks for the cursor's position, and complains about terminals that do not answer.
        os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")
        self.history = History()
        self.session: PromptSession[str] = PromptSession(
            history=InMemoryHistory(self.history.questions), key_bindings=_bindings(), enable_suspend=True
        )
        self._ended = False  # by SIGTERM

    def ask(self, prompt: str) -> str:
        """What the person typed until Enter; EOFError to leave, and KeyboardInterrupt for Ctrl-C without any text."""
        try:
            with self._leaving_first():
                return self.session.prompt(prompt, pre_run=self._begin)
        except OSError:  # the terminal is gone
            raise EOFError from None

    def remember(self, question: str) -> None:
        if self.history.add(question):
            self.session.history.append_string(question)

    @contextmanager
    def _leaving_first(self) -> Iterator[None]:
        """SIGTERM ends the editor, and is handled after that: an exception amid one of the editor's tasks would leave
        the terminal in the editor's mode, where nothing that is typed can be seen."""

        before = signal.getsignal(signal.SIGTERM)

        def end(*_: object) -> None:
            signal.signal(signal.SIGTERM, before)  # a second one comes through, should the editor hang
            self._ended = True
            if self.session.app.loop is not None:
                self.session.app.loop.call_soon_threadsafe(self._leave)

        signal.signal(signal.SIGTERM, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            if self._ended:
                self._ended = False
                signal.raise_signal(signal.SIGTERM)

    def _begin(self) -> None:
        self._take_typed_ahead()
        if self._ended:  # before the editor could be told
            self._leave()

    def _leave(self) -> None:
        app = self.session.app
        if app.future is not None and not app.future.done():
            app.exit(exception=EOFError())

    def _take_typed_ahead(self) -> None:
        """Mark the lines that were typed while the answer came: each is a question, unlike the lines of a paste."""
        from prompt_toolkit.input.typeahead import store_typeahead
        from prompt_toolkit.key_binding import KeyPress
        from prompt_toolkit.keys import Keys

        terminal = self.session.input
        keys: list[KeyPress] = []
        while not terminal.closed and (found := terminal.read_keys()):
            keys += [KeyPress(Keys.ControlM, AHEAD) if key.data in ENTER else key for key in found]
        if terminal.closed:
            keys.append(KeyPress(Keys.ControlD))
        store_typeahead(terminal, keys)


def _bindings() -> KeyBindings:
    from prompt_toolkit.application import get_app
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import Condition, has_focus, shift_selection_mode
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.keys import Keys

    bindings = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # and not searching the history
    for key in (Keys.Any, "enter", "c-j", "tab"):
        bindings.add(key, filter=typing & ~shift_selection_mode, save_before=lambda event: not event.is_repeat)(_type)
    for key in ("enter", "c-j"):
        bindings.add("escape", key, filter=typing)(lambda event: event.current_buffer.insert_text("\n"))
    bindings.add(Keys.BracketedPaste, filter=typing)(lambda event: event.current_buffer.insert_text(clean(event.data)))
    has_text = Condition(lambda: bool(get_app().current_buffer.text))
    bindings.add("c-c", filter=typing & has_text)(lambda event: event.current_buffer.reset())
    return bindings


def _type(event: KeyPressEvent) -> None:
    """Insert what was typed, or pasted in a terminal that marks no pastes: then only the last line end is Enter."""
    text = "\n" if event.data == AHEAD else clean(event.data + "".join(_rest_of_paste(event)))
    event.current_buffer.insert_text(text.removesuffix("\n"))
    if text.endswith("\n"):
        event.app.exit(result=event.current_buffer.text, style="class:accepted")


def _rest_of_paste(event: KeyPressEvent) -> Iterator[str]:
    """The text that came together with this key: nobody types that fast."""
    keys, last = event.key_processor.input_queue, event.data
    while True:
        if not keys:
            if last in ENTER:
                time.sleep(BURST)
            keys.extend(event.app.input.read_keys())
        if not keys or not _is_text(keys[0]):
            return
        last = keys.popleft().data
        yield last


def _is_text(key: KeyPress) -> bool:
    return key.key == key.data or key.data in (*ENTER, "\t")


class History:
    """The questions of all conversations, in a file of the base folder, each a line of JSON.

    questions: the last ones, oldest first. If the file fails, a warning is shown and the chat goes on without it.
    """

    def __init__(self) -> None:
        self.questions: list[str] = []
        self.path: Path | None = None
        try:
            self.path = base_dir() / "chat_history"
            self._read(self.path)
        except (OSError, UserError) as error:
            self._give_up(error)

    def add(self, question: str) -> bool:
        """Keep `question` unless it repeats the last one; return whether it was kept."""
        if self.questions[-1:] == [question]:
            return False
        self.questions.append(question)
        try:
            if self.path is not None:
                with _open(self.path) as f:  # opened again, as another conversation may have replaced the file
                    f.write(_line(question))  # in one write
        except OSError as error:
            self._give_up(error)
        return True

    def _read(self, path: Path) -> None:
        with _open(path) as f:
            f.seek(0)
            lines = f.read().splitlines()
        whole = [question for line in lines if (question := _question(line))]
        self.questions = whole[-KEPT:]
        if len(whole) < len(lines):
            warn(f"warning: {path} was damaged; {len(lines) - len(whole)} of its {len(lines)} lines are left out")
        if len(self.questions) < len(lines):
            before = os.umask(0o077)
            try:
                write_atomic(path, b"".join(map(_line, self.questions)))
            finally:
                os.umask(before)

    def _give_up(self, error: Exception) -> None:
        warn(f"warning: no history of questions is kept: {error}")
        self.path = None


def _open(path: Path) -> BinaryIO:
    """Open for reading and appending, readable by the user only; created if absent."""
    return open(path, "a+b", buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))


def _line(question: str) -> bytes:
    return json.dumps(question, ensure_ascii=False).encode() + b"\n"


def _question(line: bytes) -> str:
    """The question of a line of the file; "" when it is damaged."""
    try:
        question = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return clean(question) if isinstance(question, str) else ""
