"""A model that has learnt the tiny world answers a hundred of its questions in the file as it does in the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat import checkpoint, machine
from nanochat.inference import Engine, Request, fit_conversation, rounded
from nanochat.model import load
from nanochat.native import level
from nanochat.tokenizer import Tokenizer
from tests.hub.html_browser import Probe

QUESTIONS = 100
NEAR = 0.02  # logits: what twelve bits of the token tables may decide


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of a small model, after some minutes."""
    from nanochat.commands import tok_train
    from nanochat.corpus.corpora import make_tinyworld
    from nanochat.train import BaseConfig, ChatConfig, train_base, train_chat

    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    torch.set_num_threads(machine.cpu_count())
    make_tinyworld(world_seed=0, mb=4)
    tok_train.run(tok_train.Config(dataset="tinyworld", vocab_size=1024))
    common: dict[str, Any] = {"device": "cpu", "dtype": "float32", "eval_every": -1, "eval_tokens": 2048}
    sizes: dict[str, Any] = {"depth": 2, "max_seq_len": 256, "total_batch_size": 4096, "num_iterations": 400}
    train_base(BaseConfig(dataset="tinyworld", answers=False, **sizes, **common))
    train_chat(ChatConfig(stage="mid", answers=False, num_iterations=100, **common))
    torch.set_num_threads(1)
    return checkpoint.find("mid")


@pytest.mark.slow
def test_a_hundred_questions(trained: Path, probe: Probe) -> None:
    from nanochat.tasks import TinyWorld

    model, tokenizer = load(trained), Tokenizer.load(trained / "tokenizer")
    engine = Engine(model, tokenizer, quantize="int8") if level() else Engine(rounded(model), tokenizer)
    probe.load(model, tokenizer)
    task = TinyWorld("test", world_seed=0)
    step = len(task) // QUESTIONS
    said = set()
    equal = 0
    for i in range(0, step * QUESTIONS, step):
        ids = fit_conversation(tokenizer, task[i].without_last(), engine.window, 64)
        done = engine.generate([Request(ids, 64, 0.0)])[0]
        answer = probe.answer(ids=ids, settings={"max_tokens": 64, "temperature": 0})
        said.add(done.text)
        if answer.ids == done.ids:
            equal += 1
            continue
        place = next(n for n, (a, b) in enumerate(zip(answer.ids, done.ids, strict=False)) if a != b)
        with torch.no_grad():
            logits = rounded(model)(torch.tensor([[*ids, *done.ids[:place]]]))[0, -1]
        first, second = logits.topk(2).values.tolist()
        assert first - second < NEAR, f"question {i} is answered with another token {place}"
    assert len(said) > QUESTIONS // 4  # it has learnt to say different things
    assert equal >= QUESTIONS * 0.95
