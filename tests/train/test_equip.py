"""What a killed compiler leaves in torch's cache must not stop every later training."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from nanochat.train import equip


@pytest.mark.skipif(sys.platform != "linux", reason="ELF files")
def test_only_incomplete_libraries_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanochat.tokenizer import _bpe

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    whole = tmp_path / "ab" / "whole.so"
    whole.parent.mkdir()
    shutil.copy(_bpe.__file__, whole)
    data = whole.read_bytes()
    for name, content in {"empty": b"", "head": data[:64], "cut": data[:-5], "zeros": bytes(len(data))}.items():
        path = whole.with_name(f"{name}.so")
        path.write_bytes(content)
        os.utime(path, (1, 1))
    waits: list[float] = []
    monkeypatch.setattr(equip.time, "sleep", lambda seconds: waits.append(seconds) or linked.write_bytes(data))
    linked = whole.with_name("linked.so")  # by another process, in a moment
    linked.touch()
    equip.mend_cache()
    assert sorted(p.name for p in whole.parent.iterdir()) == ["linked.so", "whole.so"]
    assert 0 < waits[0] <= equip.LINKING
