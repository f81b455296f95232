"""An app over a tiny random model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch
from fastapi import FastAPI

from nanochat.conversation import Part
from nanochat.inference import Completion, Engine, Stream, Token
from nanochat.inference import Request as EngineRequest
from nanochat.model import GPT, ModelConfig
from nanochat.serve import Access, ModelInfo, create_app, listen, url
from nanochat.tokenizer import Tokenizer, train_bpe
from tests.serve.browsing import BOTH, SAID, looked_at, seen

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

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


class Said:
    """A stream that says what a script says, a token a step."""

    def __init__(self, engine: Scripted, tokens: Iterator[Token]) -> None:
        self.engine, self.tokens = engine, tokens
        self.ready: list[Token] = []
        self.done = False
        self.error: Exception | None = None
        self.texts: list[str] = []
        self.complete: list[Completion] = []

    def advance(self) -> None:
        try:
            self.ready.append(next(self.tokens))
            self.engine.said += 1
            if self.ready[-1].kind == "text":
                self.texts.append(self.ready[-1].text)
        except StopIteration:
            text = "".join(self.texts)
            self.complete = [Completion([], text, [Part("text", text)], "stop", 0, 0)]
            self.close()
        except Exception as error:
            self.error = error
            self.close()

    def take(self) -> list[Token]:
        taken, self.ready = self.ready, []
        return taken

    def finished(self) -> list[Completion]:
        complete, self.complete = self.complete, []
        return complete

    def close(self) -> None:
        if not self.done:
            self.done = True
            self.engine.live.remove(self)
            self.engine.ended.set()


class Scripted(Engine):
    """An engine that says what it is told to, and waits in a step until it may go on."""

    def __init__(self, engine: Engine, script: Script) -> None:
        super().__init__(engine.model, engine.tokenizer)
        self.script = script
        self.prompts: list[list[int]] = []
        self.live: list[Said] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.said = 0
        self.ended = threading.Event()

    def stream(self, request: EngineRequest) -> Stream:
        self.prompts.append(request.prompt)
        self.live.append(Said(self, iter(self.script(request))))
        return cast(Stream, self.live[-1])

    def step(self) -> None:
        self.may_go_on.wait(20)
        for said in list(self.live):
            said.advance()


@pytest.fixture
def scripted(engine: Engine) -> Callable[[Script], Scripted]:
    return lambda script: Scripted(engine, script)


@pytest.fixture
def info() -> ModelInfo:
    return INFO


@pytest.fixture
def of_run(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], FastAPI]:
    """An app for this machine over the newest model of a stage of the small run."""
    from nanochat.inference.loading import load_engine

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tiny_run))

    def make(stage: str) -> FastAPI:
        engine, manifest = load_engine(stage, device="cpu", dtype="float32")
        info = ModelInfo(manifest.stage, manifest.tag, manifest.step, engine.model.num_params())
        return create_app(engine, info, access=Access())

    return make


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Of tabs that know what the others kept."""
    context = browser.new_context(viewport={"width": 1000, "height": 760})
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture(params=BOTH)
def screen(request: pytest.FixtureRequest, browser: Browser, served: Callable[[FastAPI], str]) -> Iterator[Page]:
    """A page of a browser, on which nothing may fail and nothing may be wider than it. It ends before the servers."""
    with looked_at(browser, request.param, "status of") as page:
        yield page


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        for name, page in getattr(item, "funcargs", {}).items():
            if page in list(SAID):  # a list: other fixtures need not be hashable
                report.sections.append((f"what the page {name} showed", seen(page)))
    return report
