"""An app over a tiny random model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch
from fastapi import FastAPI

from nanochat.inference import Engine, Token
from nanochat.inference import Request as EngineRequest
from nanochat.model import GPT, ModelConfig
from nanochat.serve import ModelInfo, create_app, listen, url
from nanochat.tokenizer import Tokenizer, train_bpe

INFO = ModelInfo("sft", "d2", 7, 1234)


@pytest.fixture(scope="session")
def engine() -> Engine:
    tokenizer = Tokenizer(train_bpe(["Grüße 🙂: how many letters are in the word strawberry?"] * 3, 290))
    config = ModelConfig(depth=2, width=32, heads=4, kv_heads=4, vocab_size=tokenizer.vocab_size, seq_len=512)
    model = GPT(config)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=g) * 0.4)
    return Engine(model.eval(), tokenizer)


@pytest.fixture
def app(engine: Engine) -> FastAPI:
    return create_app(engine, INFO)


Script = Callable[[EngineRequest], Iterable[Token]]


class Scripted(Engine):
    """An engine that says what it is told to, and waits between tokens until it may go on."""

    def __init__(self, engine: Engine, script: Script) -> None:
        super().__init__(engine.model, engine.tokenizer)
        self.script = script
        self.prompts: list[list[int]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.said = 0
        self.ended = threading.Event()

    def stream(self, request: EngineRequest) -> Iterator[Token]:
        self.prompts.append(request.prompt)
        try:
            for token in self.script(request):
                self.may_go_on.wait(20)
                self.said += 1
                yield token
        finally:
            self.ended.set()


@pytest.fixture
def scripted(engine: Engine) -> Callable[[Script], Scripted]:
    return lambda script: Scripted(engine, script)


@pytest.fixture
def info() -> ModelInfo:
    return INFO


@pytest.fixture
def served() -> Iterator[Callable[[FastAPI], str]]:
    """Runs apps with uvicorn on free ports; gives their addresses."""
    import uvicorn

    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(app: FastAPI) -> str:
        address = listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [address]}, daemon=True)
        thread.start()
        servers.append((server, thread))
        return url(address)

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(20)
