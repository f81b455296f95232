"""What a prepared corpus consists of: its meta.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nanochat.console import UserError, require_version
from nanochat.paths import base_dir, data_dir, whole

FORMAT_VERSION = 1
META = "meta.json"


@dataclass(frozen=True)
class ShardInfo:
    """One parquet file: its name, number of documents, bytes of UTF-8 text, bytes on disk.

    One that is still being downloaded has 0 documents and 0 bytes of text.
    """

    file: str
    documents: int
    bytes: int
    size: int

    @property
    def pending(self) -> bool:
        """Whether it is planned but had not arrived when meta.json was written."""
        return self.documents == 0


@dataclass(frozen=True)
class CorpusInfo:
    """A corpus on disk. source: where it came from; settings: how it was made; last shard: validation.

    skipped: planned training shards that turned out to be bad; they stay left out.
    """

    name: str
    source: str
    folder: Path
    shards: tuple[ShardInfo, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: tuple[ShardInfo, ...] = ()

    @property
    def train_docs(self) -> int:
        return sum(shard.documents for shard in self.shards[:-1])

    @property
    def val_docs(self) -> int:
        return self.shards[-1].documents

    @property
    def train_bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards[:-1])

    @property
    def val_bytes(self) -> int:
        return self.shards[-1].bytes

    @property
    def bytes(self) -> int:
        """Bytes of text in all shards."""
        return self.train_bytes + self.val_bytes

    @property
    def pending(self) -> tuple[ShardInfo, ...]:
        """The shards that are still to come."""
        return tuple(shard for shard in self.shards if shard.pending)

    @property
    def train_size(self) -> int:
        """Bytes of all planned training shards: does not change as they arrive or if one is skipped."""
        return sum(shard.size for shard in (*self.shards[:-1], *self.skipped))

    def files(self, split: str) -> list[Path]:
        """Paths of the shards of "train" or "val"."""
        if split not in ("train", "val"):
            raise UserError(f"unknown split {split!r}", "Use train or val")
        chosen = self.shards[:-1] if split == "train" else self.shards[-1:]
        return [self.folder / shard.file for shard in chosen]

    def to_json(self) -> dict[str, Any]:
        # shards beside meta.json are found again when the whole base folder has moved
        own = self.folder.resolve() == data_dir(self.name).resolve()
        return {
            "version": FORMAT_VERSION,
            "name": self.name,
            "source": self.source,
            "folder": "." if own else str(self.folder.resolve()),
            "documents": self.train_docs + self.val_docs,
            "bytes": self.bytes,
            "settings": self.settings,
            "shards": [asdict(shard) for shard in self.shards],
            "skipped": [asdict(shard) for shard in self.skipped],
        }


def corpus_names() -> list[str]:
    """Corpora that are prepared under the base dir."""
    names = (file.parent.name for file in (base_dir() / "data").glob(f"*/{META}"))
    return sorted(name for name in names if not name.startswith("."))  # not those being made or moved away


def find_info(name: str) -> CorpusInfo | None:
    """The prepared corpus `name`; None when there is none. UserError when its meta.json is damaged."""
    path = whole(data_dir(name)) / META
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        require_version(data["version"], FORMAT_VERSION, f"{path}")
        shards = tuple(ShardInfo(**shard) for shard in data["shards"])
        skipped = tuple(ShardInfo(**shard) for shard in data.get("skipped", []))
        folder = path.parent if data["folder"] == "." else whole(Path(data["folder"]))
        info = CorpusInfo(data["name"], data["source"], folder, shards, data["settings"], skipped)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged", f"Delete {path.parent} and prepare the corpus again") from None
    if len(info.shards) < 2:
        raise UserError(f"{path} names fewer than two shards", f"Delete {path.parent} and prepare the corpus again")
    return info
