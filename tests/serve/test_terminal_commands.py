"""What is said to the program inside a conversation, and one answer for another program."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanochat.commands import chat_cli
from nanochat.console import UserError
from nanochat.conversation import Conversation
from nanochat.inference import Engine, Request, Token
from nanochat.serve import Terminal, with_piped
from nanochat.serve.conversation_file import load, save
from nanochat.serve.line import Lines
from nanochat.serve.slash import nearest
from nanochat.serve.talk_settings import SETTINGS
from nanochat.tasks import CustomJSON

REPOSITORY = Path(__file__).parents[2]
CALL = ({"type": "text", "text": "It is "}, {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Chat:
    """A conversation with a model that says "answer N", or less before Ctrl-C, and what it was asked."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.requests: list[Request] = []
        self.until_stopped: str | None = None
        self._patch, self._read = monkeypatch, capsys.readouterr
        self._engine = engine
        monkeypatch.setattr(engine, "stream", self._stream)
        self.terminal = Terminal(engine, Request([0], 20, seed=1))

    def _stream(self, request: Request) -> Iterator[Token]:
        self.requests.append(request)
        if self.until_stopped is not None:
            if self.until_stopped:
                yield Token(0, self.until_stopped, "text", 0)
            raise KeyboardInterrupt
        yield Token(0, f"answer {len(self.requests)}", "text", 0)

    def say(self, *lines: str) -> str:
        """What the program prints for lines that are typed."""
        queue = iter([*lines, "quit"])
        self._patch.setattr(Lines, "ask", lambda self, prompt: next(queue))
        self.terminal.loop()
        return self._read().out.partition("\n")[2]

    @property
    def asked(self) -> str:
        """The newest prompt, short."""
        text = self._engine.tokenizer.decode(self.requests[-1].prompt)
        for name, sign in (("user_start", "U:"), ("assistant_start", "A:"), ("user_end", ""), ("assistant_end", "")):
            text = text.replace(f"<|{name}|>", sign)
        return text.removeprefix("<|bos|>")


@pytest.fixture
def chat(engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    return Chat(engine, monkeypatch, capsys)


def test_system_and_clear(chat: Chat) -> None:
    assert (
        chat.say("/system", "/system Be brief\n and kind") == "there is no system message\nthe system message is set\n"
    )
    assert chat.say("hi", "/system").endswith("answer 1\nsystem message: Be brief\n and kind\n")
    assert chat.asked == "U:Be brief\n and kind\n\nhiA:"
    assert chat.say("/clear", "ho") == "a new conversation\nanswer 2\n"
    assert chat.asked == "U:Be brief\n and kind\n\nhoA:"
    chat.say('/system ""', "clear", "he")
    assert chat.asked == "U:heA:"


def test_a_question_that_begins_with_a_slash(chat: Chat) -> None:
    chat.say("//usr/bin is what?")
    assert chat.asked == "U:/usr/bin is what?A:"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("/sytem x", "/system"), ("/re", "/regen"), ("/?", "/"), ("/", "/"), ("/HLEP", "/help"), ("/usr/bin", "/")],
)
def test_unknown_commands(typed: str, meant: str, chat: Chat) -> None:
    out = chat.say(typed)
    assert out.count("\n") == 1 and f"the nearest is {meant}" in out and "//TEXT" in out
    assert not chat.requests
    assert nearest("temprature", list(SETTINGS)) == "temperature"


def test_regen(chat: Chat) -> None:
    assert "error: there is no question" in chat.say("/regen")
    chat.say("a", "b", "/regen")
    assert chat.asked == "U:aA:answer 1U:bA:"
    assert [request.seed for request in chat.requests] == [1, 2, 3]
    chat.say("c")
    assert chat.asked == "U:aA:answer 1U:bA:answer 3U:cA:"


def test_ctrl_c(chat: Chat) -> None:
    """What was said until then stays; a question without any answer is replaced; an old answer stays meanwhile."""
    chat.until_stopped = "half"
    assert chat.say("a") == "half [stopped]\n"
    chat.until_stopped = ""
    assert chat.say("/regen") == " [stopped]\n"
    chat.say("b")
    assert chat.asked == "U:aA:halfU:bA:"
    chat.until_stopped = None
    chat.say("c")
    assert chat.asked == "U:aA:halfU:cA:"
    assert [message.text for message in chat.terminal.messages] == ["a", "half", "c", "answer 4"]


def test_ctrl_c_before_the_first_token_of_a_prompt(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(text: str) -> list[int]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(chat.terminal.engine.tokenizer, "encode", interrupted)
        assert chat.say("a") == "[stopped]\n"
    assert chat.say("b") == "answer 1\n"
    assert chat.asked == "U:bA:"


def test_set(chat: Chat) -> None:
    out = chat.say("/set temperature 0.25", "/set top-k=7", "/set SEED 9", "hi", "/set seed", "/set top_k")
    assert out == "temperature = 0.25\ntop_k = 7\nseed = 9\nanswer 1\nseed = 10\ntop_k = 7\n"
    assert (chat.requests[0].temperature, chat.requests[0].top_k, chat.requests[0].seed) == (0.25, 7, 9)
    assert [line.split(" = ")[0] for line in chat.say("/set").splitlines()] == list(SETTINGS)


@pytest.mark.parametrize(
    "typed",
    [
        *("temperature warm", "temperature nan", "temprature 1", "temperature 1 2", "top_k 1.5", "top_k -1", "top_p 0"),
        *("min_p 2", "max_tokens 0", "seed x", "seed " + "9" * 5000, "repetition_penalty inf"),
    ],
    ids=lambda typed: typed[:20],
)
def test_bad_settings(typed: str, chat: Chat) -> None:
    before = chat.terminal.request
    out = chat.say(f"/set {typed}")
    assert out.startswith("error: ") and out.count("\n") == 1 and len(out) < 300
    assert chat.terminal.request == before


def test_save_and_load(chat: Chat, folder: Path) -> None:
    assert "nothing to save" in chat.say("/save a.json")
    chat.say("/system Söi kurz", "hi")
    assert chat.say("/save 'a b.json'") == "saved 2 messages to a b.json\n"
    file = folder / "a b.json"
    written = {"messages": [{"role": "system", "content": "Söi kurz"}, {"role": "user", "content": "hi"}]}
    written["messages"].append({"role": "assistant", "content": "answer 1"})
    assert json.loads(file.read_bytes()) == written
    out = chat.say("clear", '/system ""', '/load "a b.json"')
    assert out.endswith("loaded 2 messages from a b.json\nsystem message: Söi kurz\n\nyou: hi\nanswer 1\n")
    chat.say("ho")
    assert chat.asked == "U:Söi kurz\n\nhiA:answer 1U:hoA:"
    assert len(CustomJSON(file)) == 1  # a data set of one conversation


def test_nothing_is_overwritten_unasked(chat: Chat, folder: Path) -> None:
    (folder / "a.json").write_text("mine")
    chat.say("hi")
    assert "a.json exists" in chat.say("/save a.json")
    chat.terminal.at_terminal = True
    assert "a.json exists" in chat.say("/save a.json", "n")
    assert (folder / "a.json").read_text() == "mine"
    assert "saved 2 messages" in chat.say("/save a.json", "y")
    assert load(folder / "a.json").to_dict()["messages"][0]["content"] == "hi"
    os.symlink("nowhere", folder / "link")
    os.mkfifo(folder / "pipe")
    for name in ("link", "pipe", ".", "none/a.json", "x" * 300, ""):
        out = chat.say(f"/save {name}")
        assert out.startswith("error: ") and out.count("\n") == 1, out
    assert sorted(os.listdir(folder)) == ["a.json", "link", "pipe"]


def test_a_file_of_our_format(folder: Path, chat: Chat) -> None:
    """Tool calls come back; a byte order mark, Windows line ends and control characters do no harm."""
    messages = [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": [*CALL]}]
    conversation = Conversation.from_dict({"messages": messages})
    save(conversation, folder / "ours")
    assert load(folder / "ours") == conversation
    said = '{"messages": [\r\n{"role": "user",\r\n"content": "a\\u001b[2J\\ud800"}]}'
    (folder / "odd").write_bytes(b"\xef\xbb\xbf" + said.encode())
    out = chat.say("/load ours", "/load odd")
    assert "you: 6*7?\nIt is [6*7 = 42] \n" in out
    assert out.endswith(
        "you: a[2J\ufffd\nThis question has no answer yet: /regen answers it, and another question replaces it.\n"
    )
    chat.say("/regen")
    assert chat.asked == "U:a[2J\ufffdA:"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xfe{\x00}\x00",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"messages": [{"role": "robot\\u001b[2J", "content": "x"}]}',
        b'{"messages": [{"role": "assistant", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": []}]}',
        b'{"messages": [{"role": "user", "content": "a"}]}\n{"messages": []}',
        None,
    ],
    ids=lambda content: ascii(content)[:24],
)
def test_files_that_are_not_ours(content: bytes | None, chat: Chat, folder: Path) -> None:
    chat.say("hi")
    before = list(chat.terminal.messages)
    if content is None:
        os.mkfifo(folder / "file")
    else:
        (folder / "file").write_bytes(content)
    out = chat.say("/load file")
    assert out.startswith("error: ") and out.count("\n") == 1 and "\x1b" not in out and "file" in out
    assert chat.terminal.messages == before


def test_missing_files(chat: Chat) -> None:
    for typed in ("/load none.json", "/load .", "/load", "/load " + "x" * 300):
        out = chat.say(typed)
        assert out.startswith("error: ") and out.count("\n") == 1


def test_a_base_model_has_no_conversation(chat: Chat) -> None:
    chat.terminal.chat = False
    out = chat.say("/system x", "/save x", "/load x", "/regen", "once", "/regen", "/clear", "/help")
    assert out.count("error: ") == 4
    assert "onceanswer 1\nonceanswer 2\na new conversation\n/system TEXT" in out


def test_an_answer_that_fails_ends_no_conversation(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: Request) -> Iterator[Token]:
        raise UserError("the model's numbers are no numbers", "Take another checkpoint")

    with monkeypatch.context() as patch:
        patch.setattr(chat.terminal.engine, "stream", broken)
        assert chat.say("a") == "error: the model's numbers are no numbers. Take another checkpoint.\n"
    chat.say("b")
    assert chat.asked == "U:bA:"


def test_a_question_that_is_too_long(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(engine, Request([0], 3)).answer("x " * engine.window)
    assert "note: this is too long for the model; the first " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "piped", "expected"),
    [
        ("Summarize", "a\r\nb\r\n", "Summarize\n\na\nb"),
        ("Summarize", "  x\n\ty\n\n", "Summarize\n\n  x\n\ty"),
        ("Summarize", "", "Summarize"),
        ("Summarize", " \n", "Summarize"),
        ("Summarize", None, "Summarize"),
        ("-", "alone\n", "alone"),
        ("-", "", ""),
        ("", "alone", "alone"),
        (" \x1b", None, ""),
        ("a\x1b[2J", "\ufeffb\x00", "a[2J\n\nb"),
    ],
)
def test_standard_input(prompt: str, piped: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None if piped is None else io.StringIO(piped, newline=""))
    assert with_piped(prompt) == expected


def test_one_answer_as_json(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = engine, SimpleNamespace(stage="sft", tag="d2", step=7)
    monkeypatch.setattr("nanochat.inference.load_engine", lambda *where: found)
    monkeypatch.setattr(sys, "stdin", io.StringIO("how many?"))
    settings: dict[str, Any] = {"temperature": 0.5, "top_k": 9, "top_p": 0.9, "min_p": 0.01, "max_tokens": 12}
    settings |= {"seed": 5, "repetition_penalty": 1.5}
    chat_cli.run(chat_cli.Config(prompt="Grüße", json=True, system="Be brief", **settings))
    out, err = capsys.readouterr()
    assert (out.count("\n"), out.isascii(), err) == (1, True, "")
    told = json.loads(out)
    terminal = Terminal(engine, Request([0], **settings), system="Be brief")
    again = terminal.told("Grüße\n\nhow many?")
    assert told.pop("seconds") >= 0 and again.pop("seconds") >= 0
    assert told == {**again, "model": {"stage": "sft", "tag": "d2", "step": 7}}
    assert list(told) == ["answer", "parts", "finish", "tokens", "prompt_tokens", "settings", "model"]
    assert told["settings"] == settings and told["tokens"] <= 12 and told["finish"] in ("stop", "length")
    assert told["answer"] == "".join(part["text"] for part in told["parts"] if part["type"] == "text")
    with pytest.raises(UserError, match="--json is for one answer"):
        chat_cli.run(chat_cli.Config(json=True))


def test_ctrl_c_ends_one_answer(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the program, with the exit code of Ctrl-C: a script must not take half an answer for a whole one."""
    found = chat.terminal.engine, SimpleNamespace(stage="sft", tag="d2", step=7)
    monkeypatch.setattr("nanochat.inference.load_engine", lambda *where: found)
    monkeypatch.setattr(sys, "stdin", None)
    chat.until_stopped = "half"
    with pytest.raises(KeyboardInterrupt):
        chat_cli.run(chat_cli.Config(prompt="hi"))


PROGRAM = """
import fcntl, itertools, termios, time
from types import SimpleNamespace
from nanochat.console import run_command
from nanochat.inference import Request, Token
from nanochat.serve import Terminal, talk

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
talk.newest_exchanges = lambda tokenizer, conversation, window, room: [ord(conversation.messages[-1].text[0])]

def stream(request):
    yield Token(0, "**bo", "text", 0)
    yield Token(0, "ld**\\x1b[2J\\n", "text", 0)
    for i in itertools.count() if request.prompt == [ord("w")] else ():
        yield Token(0, f"{i} ", "text", 0)
        time.sleep(0.01)

engine = SimpleNamespace(tokenizer=SimpleNamespace(bos=64), window=99, stream=stream)
run_command(int, lambda config: Terminal(engine, Request([0], 9)).loop(), argv=["0"])
"""


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="styled"),
        pytest.param({"NO_COLOR": "1", "TERM": "dumb"}, id="plain", marks=pytest.mark.slow),
    ],
)
def test_in_a_terminal(environment: dict[str, str], folder: Path) -> None:
    (folder / "a.json").write_text("mine")
    master, slave = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "TERM": "xterm", "NANOCHAT_BASE_DIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
        | environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    screen = b""
    bold = b"**bold**[2J" if environment else b"\x1b[1mbold\x1b[0m[2J"
    ready = b"you: " if environment else b"\x1b[?2004h"  # the editor is there
    try:
        for wanted, keys in [
            (ready, b"wait\r"),
            (bold, b""),
            (b"1 2 3", b"\x03"),
            (b"[stopped]", b""),
            (ready, b"/save a.json\r"),
            (b"Replace it? [y/N]", b"y\r"),
            (b"saved 2 messages to a.json", b""),
            (ready, b"quit\r"),
        ]:
            while wanted not in screen:
                assert select.select([master], [], [], 60)[0], screen[-2000:]
                screen += os.read(master, 65536)
            screen = screen.partition(wanted)[2]
            os.write(master, keys)
        assert program.wait(60) == 0
    finally:
        program.kill()
        program.wait()
        os.close(master)
    assert load(folder / "a.json").messages[1].text.startswith("**bold**")
