"""chat_web as a process: exit codes, SIGTERM, Ctrl-C, and what it never prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch

from nanochat import checkpoint
from nanochat.model import GPT, ModelConfig
from nanochat.model.weights import save_weights
from nanochat.tokenizer import Tokenizer, train_bpe

ROOT = Path(__file__).parents[2]
KEY = "a-given-key-0123456789"
QUESTION = {"messages": [{"role": "user", "content": "how many?"}], "temperature": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder with a model whose answers do not end by themselves for a long time."""
    tokenizer = Tokenizer(train_bpe(["how many letters are in the word strawberry?"] * 3, 280))
    model = GPT(ModelConfig(2, 16, 2, 2, tokenizer.vocab_size, 16_384))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()  # all tokens are equally likely, and the first one wins
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder))
        with checkpoint.create("sft", "d2", 5) as place:
            save_weights(model.config, model.state_dict(), place)
            tokenizer.save(place / "tokenizer")
    return folder


class Server:
    def __init__(self, base: Path, *flags: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nanochat", "serve", "--port=0", "--device=cpu", *flags],
            env={**os.environ, "NANOCHAT_BASE_DIR": str(base), **variables},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.watchdog = threading.Timer(120, self.process.kill)
        self.watchdog.start()
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.url = next((word for word in self.line.split() if word.startswith("http://")), "").removesuffix("/login")

    def asked(self, max_tokens: int) -> Iterator[str]:
        """The events' data of an answer, once it has begun."""
        body = {**QUESTION, "max_tokens": max_tokens}
        with httpx.stream("POST", f"{self.url}/chat/completions", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                if line:
                    yield line.removeprefix("data: ")

    def health(self) -> tuple[int, bool]:
        answer = httpx.get(f"{self.url}/health", timeout=60)
        return answer.status_code, answer.json()["ready"]

    def end(self) -> tuple[int, str]:
        """Its exit code and all that it said on stderr."""
        code = self.process.wait(60)
        self.watchdog.cancel()
        assert self.process.stderr is not None
        return code, self.process.stderr.read()


Start = Callable[..., Server]


@pytest.fixture
def start(base: Path) -> Iterator[Start]:
    started: list[Server] = []

    def begin(*flags: str, **variables: str) -> Server:
        started.append(Server(base, *flags, **variables))
        return started[-1]

    yield begin
    for server in started:
        server.process.kill()
        server.watchdog.cancel()


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_sigterm_lets_running_answers_finish(start: Start) -> None:
    server = start()
    running = [server.asked(4096) for _ in range(8)]
    assert all("token" in next(answer) for answer in running)
    server.process.send_signal(signal.SIGTERM)
    assert until(lambda: server.health() == (503, False))
    refused = httpx.post(f"{server.url}/chat/completions", json=QUESTION, timeout=60)
    assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
    openai = httpx.post(f"{server.url}/v1/chat/completions", json={**QUESTION, "model": "x"}, timeout=60)
    assert openai.status_code == 503 and openai.json()["error"]["message"]
    for answer in running:
        *_, last = answer
        assert json.loads(last) == {"done": True}
    assert server.end() == (0, "")


def test_an_idle_server_ends_at_once(start: Start) -> None:
    server = start()
    with httpx.Client() as kept_open:
        kept_open.get(f"{server.url}/health")
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == (0, "")


def test_the_drain_has_an_end(start: Start) -> None:
    server = start("--drain-seconds=0.5", "--max-tokens=4000")
    running = [server.asked(4096) for _ in range(3)]
    for answer in running:
        next(answer)
    os.kill(server.process.pid, signal.SIGSTOP)  # time passes, and the answers are not made
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    server.process.send_signal(signal.SIGCONT)
    assert server.end() == (0, "")


@pytest.mark.parametrize("second", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_second_signal_ends_it_now(second: signal.Signals, start: Start) -> None:
    server = start("--drain-seconds=1000")
    running = [server.asked(4096) for _ in range(8)]
    for answer in running:
        next(answer)
    server.process.send_signal(signal.SIGTERM)
    assert until(lambda: server.health() == (503, False))
    server.process.send_signal(second)
    assert server.end() == (128 + second, "")


def test_ctrl_c_ends_it(start: Start) -> None:
    server = start()
    running = server.asked(4096)
    next(running)
    server.process.send_signal(signal.SIGINT)
    assert server.end() == (0, "")


def test_prompts_are_logged_when_asked_for_and_keys_never(start: Start) -> None:
    server = start("--log-prompts", NANOCHAT_API_KEY=KEY)
    assert KEY not in server.line
    bearer = {"Authorization": f"Bearer {KEY}"}
    for path in (f"/login?key={KEY}", f"/?key={KEY}", f"/v1/models?key={KEY}", f"/static/%ff?key={KEY}"):
        httpx.get(f"{server.url}{path}")
        httpx.get(f"{server.url}{path}", headers=bearer)
    assert httpx.post(f"{server.url}/login", data={"key": KEY}).status_code == 303
    asked = {**QUESTION, "max_tokens": 1}
    for headers, code in ((bearer, 200), ({}, 401)):
        assert httpx.post(f"{server.url}/chat/completions", json=asked, headers=headers).status_code == code
    server.process.send_signal(signal.SIGTERM)
    code, said = server.end()
    assert code == 0 and json.loads(said)["asked"] == asked and KEY not in said


def test_an_open_address_without_a_key_is_one_line(base: Path) -> None:
    for flags in (["--host=0.0.0.0"], ["--host=0.0.0.0", "--api-key="], ["--api-key=abc", "--no-auth"]):
        done = subprocess.run(
            [sys.executable, "-m", "scripts.chat_web", "--port=0", *flags],
            env={**os.environ, "NANOCHAT_BASE_DIR": str(base / "nothing")},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
