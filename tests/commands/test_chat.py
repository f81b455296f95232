"""chat_cli and chat_web on a checkpoint made here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from nanochat import checkpoint
from nanochat.commands import chat_cli, chat_web, serve
from nanochat.console import UserError
from nanochat.conversation import Part
from nanochat.inference import Completion, Engine, Request, Token, load_engine
from nanochat.model import GPT, ModelConfig
from nanochat.model.weights import save_weights
from nanochat.serve import Terminal
from nanochat.serve.line import Lines
from nanochat.serve.terminal import HELP
from nanochat.tokenizer import Tokenizer, train_bpe

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A base folder with a base and an sft checkpoint of one random model."""
    tokenizer = Tokenizer(train_bpe(["how many letters are in the word strawberry?"] * 3, 280))
    model = GPT(ModelConfig(2, 16, 2, 2, tokenizer.vocab_size, 64))
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=g) * 0.5)
    base = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        patch.setenv("NANOCHAT_DTYPE", "float32")
        for stage in ("base", "sft"):
            with checkpoint.create(stage, "d2", 5) as folder:
                save_weights(model.config, model.state_dict(), folder)
                tokenizer.save(folder / "tokenizer")
        yield base


@pytest.fixture
def engine(checkpoints: Path) -> Engine:
    return load_engine("sft", device="cpu")[0]


@pytest.mark.usefixtures("checkpoints")
def test_one_answer(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = engine.tokenizer
    text = tokenizer.encode("how many?")
    special = tokenizer.special
    prompt = [special("<|user_start|>"), *text, special("<|user_end|>"), special("<|assistant_start|>")]
    expected = engine.generate([Request([tokenizer.bos, *prompt], max_tokens=20, temperature=0)])[0]
    chat_cli.run(chat_cli.Config(prompt="how many?", max_tokens=20, temperature=0, device="cpu"))
    out = capsys.readouterr().out
    assert expected.text
    assert out == "".join(c for c in expected.text if c.isprintable() or c in "\n\t") + "\n"


@pytest.mark.usefixtures("checkpoints")
def test_answering_does_not_import_torch_compile() -> None:
    """It takes more than a second, and a chat begins that much later."""
    code = (
        "import sys; from nanochat.inference import Request, load_engine\n"
        "engine, _ = load_engine('sft', device='cpu')\n"
        "engine.generate([Request([1, 2, 3], max_tokens=3)])\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.usefixtures("checkpoints")
def test_a_base_model_continues(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = [engine.tokenizer.bos, *engine.tokenizer.encode("how many")]
    expected = engine.generate([Request(prompt, max_tokens=20, temperature=0)])[0]
    chat_cli.run(chat_cli.Config(source="base", prompt="how many", max_tokens=20, temperature=0, device="cpu"))
    printable = "".join(c for c in expected.text if c.isprintable() or c in "\n\t")
    assert capsys.readouterr().out == f"how many{printable}\n"


def scripted(engine: Engine, monkeypatch: pytest.MonkeyPatch, tokens: list[Token | None]) -> list[list[int]]:
    """Make the engine say `tokens`, None being Ctrl-C; returns the prompts it gets."""
    prompts = []

    def stream(request: Request) -> Iterator[Token]:
        prompts.append(request.prompt)
        for token in tokens:
            if token is None:
                raise KeyboardInterrupt
            yield token

    monkeypatch.setattr(engine, "stream", stream)
    return prompts


def lines(monkeypatch: pytest.MonkeyPatch, *said: str | type[BaseException]) -> None:
    queue = iter(said)

    def ask(self: Lines, prompt: str) -> str:
        line = next(queue)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(Lines, "ask", ask)


def test_a_conversation(engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tokens: list[Token | None] = [
        Token(0, "It is ", "text", 0),
        Token(0, "", "special", 0),
        Token(0, "6*7", "python", 0),
        Token(0, "", "special", 0),
        Token(0, "42", "python_output", 0),
        Token(0, "", "special", 0),
        Token(0, "42.\x1b[2J", "text", 0),
    ]
    prompts = scripted(engine, monkeypatch, tokens)
    lines(monkeypatch, "a", "", "b", "clear", "c", "QUIT")
    Terminal(engine, Request([0], 20)).loop()
    assert "It is [6*7 = 42] 42.[2J\n" in capsys.readouterr().out
    first, second, third = map(engine.tokenizer.decode, prompts)
    user, end = "<|user_start|>", "<|user_end|><|assistant_start|>"
    assert first == f"<|bos|>{user}a{end}"
    assert second.startswith(first + "It is <|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>")
    assert second.endswith(f"<|assistant_end|>{user}b{end}")
    assert third == f"<|bos|>{user}c{end}"


def call_without_result(before: str = "It is ", after: str = " so.") -> list[Token | None]:
    said = [
        (before, "text"),
        ("", "special"),
        ("3*You ", "python"),
        ("are", "python"),
        ("", "special"),
        (after, "text"),
    ]
    return [Token(0, text, kind, 0) for text, kind in said]  # type: ignore[arg-type]


def test_a_tool_call_without_a_result_is_not_shown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But the model reads what it wrote."""
    prompts = scripted(engine, monkeypatch, call_without_result())
    lines(monkeypatch, "a", "b", "quit")
    terminal = Terminal(engine, Request([0], 20))
    terminal.loop()
    terminal.show_last()
    assert capsys.readouterr().out.count("It is so.\n") == 3
    assert "It is <|python_start|>3*You are<|python_end|> so.<|assistant_end|>" in engine.tokenizer.decode(prompts[1])


@pytest.mark.parametrize(
    ("before", "after", "expected"), [("It is ", "", "It is \n"), ("", "", "[3*You are] \n"), ("", " So.", "So.\n")]
)
def test_an_answer_with_such_a_call_alone_is_not_empty(
    before: str,
    after: str,
    expected: str,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted(engine, monkeypatch, call_without_result(before, after))
    Terminal(engine, Request([0], 20)).answer("a")
    assert capsys.readouterr().out == expected


def test_a_call_that_is_stopped_is_not_shown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(engine, monkeypatch, [*call_without_result()[:3], None])
    Terminal(engine, Request([0], 20)).answer("a")
    assert capsys.readouterr().out == "It is  [stopped]\n"


def test_for_a_program_the_call_is_in_the_parts(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Part("text", "It is "), Part("python", "3*You are"), Part("text", " so.")]
    said = Completion([1, 2, 3], "It is  so.", parts, "stop", 0, 0)
    monkeypatch.setattr(engine, "generate", lambda requests: [said])
    told = Terminal(engine, Request([0], 20)).told("a")
    assert told["answer"] == "It is so."
    assert told["parts"] == [{"type": part.type, "text": part.text} for part in parts]


def test_ctrl_c_stops_an_answer_and_leaves_at_the_prompt(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = scripted(engine, monkeypatch, [Token(0, "half", "text", 0), None])
    lines(monkeypatch, "a", "b", KeyboardInterrupt)
    Terminal(engine, Request([0], 20)).loop()
    assert capsys.readouterr().out.count("half [stopped]\n") == 2
    assert "half<|assistant_end|><|user_start|>b" in engine.tokenizer.decode(prompts[1])


def command(
    name: str, *arguments: str | bytes, base: Path, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command; its two outputs as text."""
    done = subprocess.run(
        [sys.executable, "-m", f"nanochat.commands.{name}", *arguments],
        env={**os.environ, "NANOCHAT_BASE_DIR": str(base), **environment},
        cwd=REPOSITORY,
        input=stdin,
        capture_output=True,
        timeout=60,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_no_terminal_left(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(engine, monkeypatch, [Token(0, "hi", "text", 0)])
    lines(monkeypatch, "a", EOFError)
    monkeypatch.setattr(sys, "stdout", None)
    Terminal(engine, Request([0], 20)).loop()


def test_a_conversation_over_pipes(checkpoints: Path) -> None:
    """Bytes that are no UTF-8 cost neither the conversation nor the others; what is printed is as it always was."""
    settings = ("--device=cpu", "-t", "0", "--max-tokens=5")
    answers = {}
    for name, said in {
        "clean": "a\ufffdb\n\ncafé\nquit\nnever asked\n".encode(),
        "odd": b"\xef\xbb\xbfa\xffb\x00\r\n \ncaf\xc3\xa9",
    }.items():
        result = command("chat_cli", *settings, base=checkpoints, stdin=said, PYTHONIOENCODING="ascii")
        assert (result.returncode, result.stderr) == (0, "")
        answers[name] = result.stdout
    first, second, *others = answers["odd"].split("\nyou: ")
    assert first == f"nanochat sft/d2 step 5\n{HELP}\n"
    assert answers["odd"] == answers["clean"] + "\n"  # Ctrl-D, or an end of file, ends the line
    assert second and others[0] == "" and others[2] == "\n"
    assert "chat_history" not in os.listdir(checkpoints)


def test_a_prompt_that_is_no_utf8(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("-i", "base", "-t", "0", "--device=cpu", "--max-tokens=20")
    result = command("chat_cli", *settings, "-p", b"\x1ba\xffb", base=checkpoints)
    assert (result.returncode, result.stderr) == (0, "")
    chat_cli.run(chat_cli.Config("base", prompt="a\ufffdb", temperature=0, device="cpu", max_tokens=20))
    assert result.stdout == capsys.readouterr().out
    assert result.stdout.startswith("a\ufffdb")


def test_one_answer_needs_no_line_editor(checkpoints: Path) -> None:
    program = """
import sys
from nanochat.commands.chat_cli import main
try:
    main()
finally:
    print("prompt_toolkit" in sys.modules)
"""
    for arguments in (["--help"], ["-p", "hi", "--device=cpu", "--max-tokens=2"]):
        output = subprocess.check_output(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, "NANOCHAT_BASE_DIR": str(checkpoints)},
            cwd=REPOSITORY,
            timeout=60,
        )
        assert output.endswith(b"\nFalse\n")


@pytest.mark.parametrize("name", ["chat_cli", "chat_web", "serve"])
def test_help(name: str, tmp_path: Path) -> None:
    result = command(name, "--help", base=tmp_path)
    assert result.returncode == 0
    for flag in ("-i", "--source", "-g", "--model-tag", "-s", "-t", "-k", "--max-tokens", "--dtype"):
        assert flag in result.stdout


def test_no_checkpoint(tmp_path: Path) -> None:
    for name, arguments in (("chat_cli", ["-p", "hi"]), ("chat_web", ["--port=0"])):
        result = command(name, *arguments, base=tmp_path)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert "no sft checkpoint" in result.stderr


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = command("chat_web", f"--port={port}", base=tmp_path)
    assert result.returncode == 2
    assert result.stderr == (f"error: port {port} is in use. Stop the other program, or choose another --port.\n")


def test_bad_addresses() -> None:
    for config in (chat_web.Config(port=70000), chat_web.Config(host="no.such.host.invalid", port=0)):
        with pytest.raises(UserError):
            chat_web.run(config)


def test_bad_settings() -> None:
    for config in (chat_cli.Config(prompt="x", temperature=-1), chat_cli.Config(prompt="x", max_tokens=0)):
        with pytest.raises(UserError):
            chat_cli.run(config)
    for empty in (" ", "\x00\x1b\n"):
        with pytest.raises(UserError, match="the prompt is empty"):
            chat_cli.run(chat_cli.Config(prompt=empty))


def test_serve_is_chat_web() -> None:
    assert (serve.Config, serve.run, serve.main) == (chat_web.Config, chat_web.run, chat_web.main)


def test_the_server_as_a_program(checkpoints: Path) -> None:
    """Starts on loopback without a warning, names its address, answers, and leaves when told."""
    program = subprocess.Popen(
        [sys.executable, "-m", "nanochat.commands.chat_web", "--port=0", "--device=cpu"],
        env={**os.environ, "NANOCHAT_BASE_DIR": str(checkpoints)},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, program.kill)
    watchdog.start()
    assert program.stdout is not None
    assert program.stderr is not None
    line = program.stdout.readline()
    assert "sft/d2 step 5" in line
    address = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
    deadline = time.monotonic() + 20
    answer = httpx.get(f"{address}/health", timeout=deadline - time.monotonic()).json()
    assert answer["model"]["tag"] == "d2"
    question = {"messages": [{"role": "user", "content": "how many?"}]}
    assert '{"done": true}' in httpx.post(f"{address}/chat/completions", json=question, timeout=20).text
    program.terminate()
    assert program.wait(20) in (0, -15, 143)
    watchdog.cancel()
    assert "warning" not in program.stderr.read()
