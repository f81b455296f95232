from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty base dir, without a mirror of the Hub."""
    folder = tmp_path / "base"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder))
    monkeypatch.delenv("NANOCHAT_HUB_DIR", raising=False)
    return folder


def write_parquet(path: Path, texts: Sequence[str | None], group: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, row_group_size=group)
    return path


@pytest.fixture
def shard_folder(tmp_path: Path) -> Path:
    """Three shards of 7 documents in the layout that is used in place; the last is validation."""
    for place in range(3):
        texts = [f"shard {place} document {number} é" for number in range(7)]
        write_parquet(tmp_path / "My Shards" / f"shard_{place:05d}.parquet", texts)
    return tmp_path / "My Shards"
