"""Turn a stream of documents into the shards of a corpus."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nanochat.console import Progress, UserError
from nanochat.corpus.info import META, CorpusInfo, ShardInfo
from nanochat.paths import data_dir, replace_folder, write_json

GROUP_ROWS = 1024
GROUP_BYTES = 32 << 20  # a group ends earlier when its documents are long
SHARD_BYTES = 100 << 20  # of text
VAL_EVERY = 50  # one document in 50 (2%) is for validation, until that shard is full


class ShardWriter:
    """Appends documents to one parquet file (column `text`, zstd)."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self.documents = self.bytes = 0
        self._schema = pa.schema([("text", pa.string())])
        self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._texts: list[str] = []
        self._pending = 0

    def add(self, text: str, size: int) -> None:
        """`size`: bytes of `text` as UTF-8."""
        self._texts.append(text)
        self._pending += size
        if len(self._texts) == GROUP_ROWS or self._pending >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._texts:
            self._file.write_table(pa.table({"text": self._texts}, schema=self._schema))
        self.documents += len(self._texts)
        self.bytes += self._pending
        self._texts, self._pending = [], 0

    @property
    def full(self) -> bool:
        return self.bytes + self._pending >= SHARD_BYTES

    def close(self) -> None:
        self._flush()
        self._file.close()
        del self._file  # a closed writer still holds the footer of its file

    def renamed(self, name: str) -> ShardInfo:
        """Give the closed file its final name."""
        self.path = self.path.rename(self.path.with_name(name))
        return ShardInfo(name, self.documents, self.bytes, self.path.stat().st_size)


def too_few(source: str, documents: int) -> UserError:
    problem = f"{source} holds {documents} document{'s' if documents != 1 else ''}"
    return UserError(problem, "Training and validation need at least one each: add text")


def write_corpus(
    name: str,
    source: str,
    documents: Iterable[str],
    settings: dict[str, Any],
    expected_bytes: int,
    extra: dict[str, Any] | None = None,
) -> CorpusInfo:
    """Write documents, already in random order, as the shards of corpus `name`: all or nothing.

    expected_bytes: about how much text will come, for the progress bar.
    extra: file name -> JSON value to write beside the shards, or a function that returns it, called at the end.
    """
    folder = data_dir(name)
    with replace_folder(folder) as part, Progress(expected_bytes / 1e6, f"dataset {name}", "MB") as bar:
        val, writers = ShardWriter(part / "val"), [ShardWriter(part / "train_0")]
        try:
            for number, text in enumerate(documents):
                size = len(text.encode("utf-8"))
                if number % VAL_EVERY == 0 and not val.full:
                    val.add(text, size)
                else:
                    if writers[-1].full:
                        writers[-1].close()
                        writers.append(ShardWriter(part / f"train_{len(writers)}"))
                    writers[-1].add(text, size)
                bar.advance(size / 1e6)
        finally:
            val.close()
            writers[-1].close()
        if not writers[0].documents:
            raise too_few(source, val.documents)
        shards = tuple(writer.renamed(f"shard_{place:05d}.parquet") for place, writer in enumerate([*writers, val]))
        info = CorpusInfo(name, source, folder, shards, settings)
        for file, value in (extra or {}).items():
            write_json(part / file, value() if callable(value) else value)
        write_json(part / META, info.to_json())
    return info
