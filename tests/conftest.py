"""A small run that several tests share: tiny world text, a tokenizer, and base, mid and sft models of one layer."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.browser import found
from tests.train.launching import port_to_meet

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Set before torch is imported: small models gain nothing from threads, and lose a lot on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"
# Set before huggingface_hub and transformers are imported. The one keeps what a server said about itself there for a
# day, the other copies and imports the model files of folders: neither is for the home of who runs the tests.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="nanochat-test-hf-")
os.environ["HF_MODULES_CACHE"] = os.environ["HF_HOME"] + "/modules"
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

# A shell that starts a command in the background has it ignore Ctrl-C, and programs that it starts as well. Tests that
# press it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

VOCAB = 600
EVERY_CHARACTER = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))


@pytest.fixture(scope="module", autouse=True)
def _what_is_loaded_is_no_garbage() -> None:
    """Trainings and servers look for garbage, which among all that the tests have imported takes half a second."""
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):  # seconds are not always enough on a busy machine
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun="TimeoutError"))
    needy = [item for item in items if item.get_closest_marker("cuda")]
    if needy and not _has_cuda():
        for item in needy:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


CHROMIUM = shutil.which("chromium-headless-shell") or found()  # the first begins faster


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: while it lives, this thread has a running event loop."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def free_port() -> int:
    """Where ranks may meet."""
    return port_to_meet()


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NANOCHAT_BASE_DIR of a finished run. Read only: copy it before changing it."""
    base = tmp_path_factory.mktemp("tiny_run")
    before = os.environ.get("NANOCHAT_BASE_DIR")
    os.environ["NANOCHAT_BASE_DIR"] = str(base)
    try:
        _make()
    finally:
        if before is None:
            del os.environ["NANOCHAT_BASE_DIR"]
        else:
            os.environ["NANOCHAT_BASE_DIR"] = before
    return base


def _make() -> None:
    from nanochat.commands import tok_train
    from nanochat.corpus.corpora import make_tinyworld
    from nanochat.train import BaseConfig, ChatConfig, train_base, train_chat

    make_tinyworld(world_seed=0, mb=1)
    tok_train.run(tok_train.Config(dataset="tinyworld", vocab_size=VOCAB))
    common: dict[str, Any] = {"device": "cpu", "dtype": "float32", "compile": "off", "eval_every": -1}
    common |= {"eval_tokens": 2048, "answers": False}  # which would take longer here than the steps
    train_base(
        BaseConfig(depth=1, dataset="tinyworld", max_seq_len=128, total_batch_size=1024, num_iterations=20, **common)
    )
    train_chat(ChatConfig(stage="mid", num_iterations=4, conversations=200, **common))
    train_chat(ChatConfig(stage="sft", num_iterations=4, conversations=200, **common))


@pytest.fixture(scope="session")
def unicode_ranges() -> ModuleType:
    """The program that asks tiktoken for its Unicode tables."""
    path = Path(__file__).parents[1] / "csrc/unicode_ranges.py"
    spec = importlib.util.spec_from_file_location("unicode_ranges", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def unicode_differences(unicode_ranges: ModuleType) -> set[str]:
    """Characters that tiktoken, the regex package and rustbpe, each of its Unicode version, class differently."""
    import regex
    import rustbpe

    found: set[str] = set()
    for pattern in unicode_ranges.CLASSES.values():
        rust = rustbpe.Tokenizer()
        rust.train_from_iterator(iter(["a"]), 256, pattern=pattern)
        encoder = set(map(chr, unicode_ranges.members(pattern)))
        found |= encoder ^ set(regex.findall(pattern, EVERY_CHARACTER))
        found |= encoder ^ set(bytes(rust.encode(EVERY_CHARACTER)).decode())
    return found
