"""What reaches the program of what a person types, pastes or pipes, and the history of it."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import stat
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from nanochat.serve.line import KEPT, Editor, History, Lines, clean, open_lines

REPOSITORY = Path(__file__).parents[2]
LEFT, RIGHT, UP, HOME, END, WORD_LEFT = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[H", "\x1b[F", "\x1bb"
PATIENCE = 60


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        yield keyboard


def ask(keyboard: PipeInput, *bursts: str, editor: Editor | None = None) -> str:
    """What the editor makes of bursts of keys that come one after the other while it waits."""
    editor = editor or Editor()
    left = iter(bursts)

    def send(_: object) -> None:
        if (burst := next(left, None)) is not None:
            keyboard.send_bytes(burst.encode("utf-8", "surrogateescape"))

    editor.session.app.after_render += send
    try:
        return clean(editor.ask("you: "))
    finally:
        editor.session.app.after_render -= send


def test_cleaning() -> None:
    assert clean("a\tb\r\nc\rd\ne") == "a\tb\nc\nd\ne"
    assert clean("\ufeffhi\x00 \x1b[31mred\x07\x85\x7f") == "hi [31mred"
    assert clean("caf\udcc3\udca9 \ud800x \U0001f642") == "caf\ufffd\ufffd \ufffdx \U0001f642"


@pytest.mark.parametrize(
    ("bursts", "expected"),
    [
        (["hello", "\r"], "hello"),
        (["ello" + LEFT * 4 + "h", "\r"], "hello"),
        (["b" + HOME + "a" + END + "c", "\r"], "abc"),
        (["one three" + WORD_LEFT + "two ", "\r"], "one two three"),
        (["ab\x7f", "\x15", "new", "\r"], "new"),
        (["one", "\x1b\r", "two", "\r"], "one\ntwo"),  # Alt-Enter
        (["a\tb", "\t", "c", "\r"], "a\tb\tc"),
        (["caf\u00e9 \U0001f642", "\r"], "caf\u00e9 \U0001f642"),
        (["a\udcffb", "\r"], "a\ufffdb"),
        (["gone", "\x03", "kept", "\r"], "kept"),  # Ctrl-C with text
        (["\x1b[200~one\r\ntwo\rthree\n\x1b[201~", "!", "\r"], "one\ntwo\nthree\n!"),
        (["\x1b[200~a\x00\x1b[31mb\x07\tc\x1b[201~\r"], "a[31mb\tc"),
        (["one\rtwo\rthree\r"], "one\ntwo\nthree"),
        (["one\ntwo\r\nthree", "\r"], "one\ntwo\nthree"),
        (["say: ", "one\rtwo\r"], "say: one\ntwo"),
        (["one\r\x04"], "one"),  # Ctrl-D is no text
    ],
)
def test_keys(keyboard: PipeInput, bursts: list[str], expected: str) -> None:
    assert ask(keyboard, *bursts) == expected


@pytest.mark.parametrize("text", ["x" * 6_000, "x" * 40_000, "f\u00fcnf W\u00f6rter 🙂\n" * 999 + "."], ids=len)
@pytest.mark.parametrize("marks", [("\x1b[200~", "\x1b[201~"), ("", "")], ids=["bracketed", "plain"])
def test_long_pastes_arrive_whole(keyboard: PipeInput, text: str, marks: tuple[str, str]) -> None:
    assert ask(keyboard, text.join(marks), "\r") == text


def test_leaving(keyboard: PipeInput) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(keyboard, "\x03")
    with pytest.raises(EOFError):
        ask(keyboard, "\x04")
    assert ask(keyboard, "a", "\x04", "\r") == "a"
    keyboard.close()
    with pytest.raises(EOFError):
        ask(keyboard)


def test_lines_typed_ahead_are_questions_of_their_own(keyboard: PipeInput) -> None:
    editor = Editor()
    keyboard.send_text("one\ntwo\nthr")
    assert [editor.ask(""), editor.ask("")] == ["one", "two"]
    assert ask(keyboard, "ee\rfour\r", editor=editor) == "three\nfour"


def test_history_over_sessions(keyboard: PipeInput, base: Path) -> None:
    first = Editor()
    for question in ("one", "two\nlines", "two\nlines", "caf\u00e9"):
        first.remember(question)
    assert ask(keyboard, UP, "!", "\r", editor=first) == "caf\u00e9!"
    second = Editor()
    assert ask(keyboard, UP * 2, "!", "\r", editor=second) == "two\nlines!"
    assert ask(keyboard, "\x12on", "\r", "\r", editor=second) == "one"  # Ctrl-R
    file = base / "chat_history"
    assert [json.loads(line) for line in file.read_text("utf-8").splitlines()] == ["one", "two\nlines", "caf\u00e9"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_history_is_cut(base: Path) -> None:
    file = base / "chat_history"
    file.write_text("".join(f'"{i}"\n' for i in range(KEPT + 5)))
    file.chmod(0o644)
    expected = [str(i) for i in range(5, KEPT + 5)]
    assert History().questions == expected
    assert [json.loads(line) for line in file.read_text().splitlines()] == expected
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(base) == ["chat_history"]


def test_two_chats_share_a_history(base: Path) -> None:
    (base / "chat_history").write_text('"0"\n' * (KEPT + 1))
    one = History()
    other = History()
    one.add("a" * 100_000)
    other.add("b")
    one.add("c")
    assert History().questions[-3:] == ["a" * 100_000, "b", "c"]


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"[" * 100_000, b'{"a": 1}', b'"half a que', b'""', b"\n\n"])
def test_a_damaged_history(damage: bytes, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (base / "chat_history").write_bytes(b'"one"\n' + damage + b'\n"\\ud800 two"\n')
    history = History()
    assert capsys.readouterr().err.count("\n") == 1
    assert history.questions == ["one", "\ufffd two"]
    history.add("three")
    assert History().questions == ["one", "\ufffd two", "three"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("trouble", ["folder", "no base", "later"])
def test_no_history_is_no_trouble(
    trouble: str, keyboard: PipeInput, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if trouble == "folder":
        (base / "chat_history").mkdir()
    elif trouble == "no base":
        (base / "file").touch()
        monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base / "file" / "sub"))
    editor = Editor()
    if trouble == "later":
        (base / "chat_history").unlink()
        (base / "chat_history").mkdir()
    editor.remember("one")
    editor.remember("two")
    error = capsys.readouterr().err
    assert error.startswith("warning: no history of questions is kept: ")
    assert error.count("\n") == 1
    assert ask(keyboard, UP * 2, "\r", editor=editor) == "one"


def test_lines_of_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo"))
    lines = open_lines()
    assert type(lines) is Lines
    assert [lines.ask("you: ") for _ in range(3)] == ["one\n", "\n", "two"]
    with pytest.raises(EOFError):
        lines.ask("you: ")
    assert capsys.readouterr().out == "you: " * 4


@pytest.mark.parametrize("gone", [None, io.StringIO()])
def test_no_stdin(gone: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if gone is not None:
        gone.close()
    monkeypatch.setattr(sys, "stdin", gone)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(EOFError):
        open_lines().ask("")


BEGINNING = """
import fcntl, os, sys, termios
from nanochat.console import run_command

release, arguments = int(sys.argv[1]), sys.argv[2:]
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""
PROGRAM = """
from nanochat.serve import line
from nanochat.serve.line import clean, open_lines

def run(config: int) -> None:
    if arguments:
        line.BURST = float(arguments[0])
    lines = open_lines()
    while True:
        try:
            text = clean(lines.ask("you: ")).strip()
        except (EOFError, KeyboardInterrupt) as error:
            return print("left", type(error).__name__)
        lines.remember(text)
        print("asked", ascii(text), flush=True)
        if text == "wait":
            os.read(release, 1)

run_command(int, run, argv=["0"])
"""
SIGTERM_AMID = """
import signal
from asyncio import current_task
from nanochat.serve.line import Editor

def run(config: int) -> None:
    editor = Editor()
    session, tasks = editor.session, []
    prompt, get_size = session.prompt, session.output.get_size

    def asked_for_the_size() -> object:
        tasks.append(current_task())
        if arguments == ["a task"] and tasks[-1] is not tasks[0] and tasks.count(tasks[-1]) > 1:
            signal.raise_signal(signal.SIGTERM)
        return get_size()

    def begin(*args: object, **kwargs: object) -> str:
        if arguments == ["the start"]:
            signal.raise_signal(signal.SIGTERM)
        return prompt(*args, **kwargs)

    session.prompt, session.output.get_size = begin, asked_for_the_size
    editor.ask("you: ")

run_command(int, run, argv=["0"])
"""
CONVERSATION = """
import itertools, time
from types import SimpleNamespace
from nanochat.inference import Request, Token
from nanochat.serve import Terminal

def stream(request: Request):
    asked = "".join(map(chr, request.prompt))
    yield Token(0, f"asked {asked!a}\\n", "text", 0)
    for i in itertools.count() if "wait" in asked else ():
        yield Token(0, f"{i} ", "text", 0)
        time.sleep(0.01)

engine = SimpleNamespace(tokenizer=SimpleNamespace(bos=64, encode=lambda text: list(map(ord, text))), stream=stream)
run_command(int, lambda config: Terminal(engine, Request([0], 9), chat=False).loop(), argv=["0"])
"""


class Chat:
    """A program in a terminal, whose screen is read by a thread."""

    def __init__(
        self, program: str = PROGRAM, *arguments: str, rows: int = 24, columns: int = 80, **environment: str
    ) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (rows, columns))
        held, self.release = os.pipe()
        self.program = subprocess.Popen(
            [sys.executable, "-c", BEGINNING + program, str(held), *arguments],
            env={**os.environ, "TERM": "xterm", **environment},
            cwd=REPOSITORY,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            pass_fds=[held],
            start_new_session=True,
        )
        os.close(held)
        self.dumb = environment.get("TERM") == "dumb"
        self.screen = b""
        self._seen = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                return
            with self._changed:
                self.screen += data
                self._changed.notify()

    def until(self, text: str) -> None:
        """Wait until the program has written `text`, behind what was waited for before."""
        with self._changed:
            wanted = text.encode()
            assert self._changed.wait_for(lambda: wanted in self.screen[self._seen :], PATIENCE), self.screen[-2000:]
            self._seen = self.screen.index(wanted, self._seen) + len(wanted)

    def type(self, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(self.master, data) :]

    def asked(self, question: str) -> None:
        self.until(f"asked {question!a}\r\n")

    def prompt(self) -> None:
        self.until("you: " if self.dumb else "\x1b[?2004h")  # the editor is there, and wants pastes marked

    def end(self) -> int:
        code = self.program.wait(PATIENCE)
        echo = termios.tcgetattr(self.slave)[3] & termios.ECHO
        assert echo, "the terminal shows no more what is typed"
        assert b"Traceback" not in self.screen
        return code

    def close(self) -> None:
        self.program.kill()
        self.program.wait()
        for handle in (self.slave, self.master, self.release):
            os.close(handle)


@pytest.fixture
def start() -> Iterator[Callable[..., Chat]]:
    chats: list[Chat] = []

    def start(*arguments: str, **settings: Any) -> Chat:
        chats.append(Chat(*arguments, **settings))
        return chats[-1]

    yield start
    for chat in chats:
        chat.close()


def test_in_a_terminal(start: Callable[..., Chat]) -> None:
    chat = start()
    pasted = "first line\nsecond line\nthird line"
    for keys, question in (
        ("hllo" + LEFT * 3 + "e\r", "hello"),
        ("x" * 6000 + "\r", "x" * 6000),
        (pasted.replace("\n", "\r").join(("\x1b[200~", "\x1b[201~\r")), pasted),
        (pasted.replace("\n", "\r") + "\r", pasted),
        (pasted + "\n", pasted),
        ("a\udcff\u00e9\r", "a\ufffd\u00e9"),
        (UP * 2 + "\r", pasted),
        ("wait\r", "wait"),
    ):
        chat.prompt()
        chat.type(keys)
        chat.asked(question)
    chat.type("one\rtwo\rthr")
    chat.until("thr")  # the terminal's echo
    os.write(chat.release, b".")
    chat.asked("one")
    chat.asked("two")
    chat.prompt()
    chat.type("ee\r")
    chat.asked("three")
    chat.prompt()
    chat.type("\x04")
    chat.until("left EOFError")
    assert chat.end() == 0


def test_a_long_paste_into_a_simple_terminal(start: Callable[..., Chat]) -> None:
    chat = start(PROGRAM, "2")  # seconds, since the computer may be busy
    text = "\n".join("x" * i for i in range(1, 450))
    assert len(text) > 100_000
    chat.prompt()
    chat.type(text + "\r")
    chat.asked(text)


def test_ctrl_d_during_an_answer_leaves_after_it(start: Callable[..., Chat]) -> None:
    chat = start()
    chat.prompt()
    chat.type("wait\r")
    chat.asked("wait")
    chat.type("more\r\x04")
    chat.until("more")
    os.write(chat.release, b".")
    chat.asked("more")
    chat.until("left EOFError")
    assert chat.end() == 0


@pytest.mark.parametrize("text", ["", "half a question"])
def test_sigterm_leaves_the_terminal_as_it_was(text: str, start: Callable[..., Chat]) -> None:
    chat = start()
    chat.prompt()
    chat.type(text)
    chat.until(text)
    chat.program.send_signal(signal.SIGTERM)
    assert chat.end() == 143


@pytest.mark.parametrize("where", ["a task", "the start"])
def test_sigterm_amid(where: str, start: Callable[..., Chat]) -> None:
    """An exception in one of the editor's tasks would end the program with the terminal in the editor's mode."""
    assert start(SIGTERM_AMID, where).end() == 143


@pytest.mark.parametrize(
    "settings",
    [
        {"TERM": "dumb"},
        {"TERM": ""},
        {"rows": 1, "columns": 1},
        {"rows": 0, "columns": 0},
        {"PYTHONIOENCODING": "ascii"},
    ],
    ids=str,
)
def test_odd_terminals(settings: dict[str, object], start: Callable[..., Chat]) -> None:
    chat = start(**settings)
    for question in ("caf\u00e9", "more than fits into the width of one column"):
        chat.prompt()
        chat.type(f"{question}\r")
        chat.asked(question)
    chat.prompt()
    chat.type("\x04")
    chat.until("left EOFError")
    assert chat.end() == 0


def test_a_conversation_in_a_terminal(start: Callable[..., Chat], base: Path) -> None:
    """Ctrl-C stops an answer, and at the prompt a text; the history holds questions only."""
    chat = start(CONVERSATION)
    for keys, shown in (
        ("wait a moment\r", "'@wait a moment'"),
        ("forgotten\x03one\x1b\rtwo\r", "'@one\\ntwo'"),
        ("clear\r", "a new conversation"),
        ("  \r", ""),
        (UP + "!\r", "'@one\\ntwo!'"),
        ("\x03", ""),
    ):
        chat.prompt()
        chat.type(keys)
        chat.until(shown)
        if "wait" in keys:
            chat.until("1 2 3")
            chat.type("\x03")
            chat.until("[stopped]")
    assert chat.end() == 0
    assert [json.loads(line) for line in (base / "chat_history").read_text().splitlines()] == [
        "wait a moment",
        "one\ntwo",
        "one\ntwo!",
    ]
