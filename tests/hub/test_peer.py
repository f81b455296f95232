"""Files that upstream's own code makes. NANOCHAT_PEER names a checkout of it (2025, or mid-March 2026 and later)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nanochat.hub import import_checkpoint
from nanochat.model import load
from nanochat.model.upstream import our_name
from nanochat.tokenizer import Tokenizer
from nanochat.train.state import read

PEER = os.environ.get("NANOCHAT_PEER", "")
KEYS = {"momentum_buffer": "momentum", "second_momentum_buffer": "second"}


@pytest.mark.skipif(not PEER, reason="needs NANOCHAT_PEER: a checkout of upstream")
def test_upstreams_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "old"
    old.mkdir()
    script = Path(__file__).with_name("peer_files.py")
    done = subprocess.run([sys.executable, script, PEER, old], cwd=PEER, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = torch.load(old / "expected.pt", weights_only=True)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))

    folder = import_checkpoint(str(old / "base_checkpoints" / "d4"))
    with torch.no_grad():
        difference = (load(folder)(expected["ids"]) - expected["logits"]).abs().max()
    print(f"logits differ by {difference:.1e} at most, of {expected['logits'].std():.2f}")
    assert difference < 1e-5
    assert Tokenizer.load(folder / "tokenizer").encode(expected["text"]) == expected["tokens"]
    state = read(folder)
    assert (state.step, state.batch_tokens, state.seconds, state.loss, state.val) == (3, 2048, 7.25, 5.5, {})

    there = load_file(folder / "optimizer.safetensors")
    for name, value in expected["state"].items():
        weight, key = name.split("|")
        ours = there.pop(f"{our_name(weight)}.{KEYS.get(key, key)}")
        theirs = torch.as_tensor(value).float()
        assert torch.equal(ours, theirs[: len(ours)] if ours.ndim else theirs), name
    assert all(key.endswith(".second") and not value.any() for key, value in there.items())  # 2025 had none
