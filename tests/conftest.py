"""A small run that several tests share: tiny world text, a tokenizer, and base, mid and sft models of one layer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before torch is imported: small models gain nothing from threads, and lose a lot on a busy machine.
os.environ["OMP_NUM_THREADS"] = "1"

VOCAB = 600


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
    from nanochat.dataset.corpora import make_tinyworld
    from nanochat.train import BaseConfig, ChatConfig, train_base, train_chat

    make_tinyworld(world_seed=0, mb=1)
    tok_train.run(tok_train.Config(dataset="tinyworld", vocab_size=VOCAB))
    common = {"device": "cpu", "dtype": "float32", "compile": "off", "eval_every": -1, "eval_tokens": 2048}
    train_base(
        BaseConfig(depth=1, dataset="tinyworld", max_seq_len=128, total_batch_size=1024, num_iterations=20, **common)
    )
    train_chat(ChatConfig(stage="mid", num_iterations=4, conversations=200, **common))
    train_chat(ChatConfig(stage="sft", num_iterations=4, conversations=200, **common))
