"""Shards: parquet files with a column `text`, read by document number."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.console import UserError
from nanochat.dataset.info import ShardInfo, load_info

CACHE_BYTES = 256 << 20  # of decoded row groups, per reader


class Shards:
    """The documents of one split by number: `shards.get_many([3, 1]) -> [text, text]`.

    Any size of row groups works; those used last stay in memory, so neighbours are cheap.
    Threads may share one.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._groups: list[tuple[int, int]] = []  # (file, row group in it)
        self._starts: list[int] = []  # document number at which the group begins
        self._footers: list[Any] = []
        self._count = 0
        for place, path in enumerate(self.files):
            with opened(path) as file:
                self._footers.append(file.metadata)
            for group in range(self._footers[-1].num_row_groups):
                self._groups.append((place, group))
                self._starts.append(self._count)
                self._count += self._footers[-1].row_group(group).num_rows
        self._cache: OrderedDict[int, Any] = OrderedDict()  # group number -> its texts as an arrow array
        self._cached = 0
        self._lock = threading.Lock()

    @classmethod
    def open(cls, corpus: str, split: str) -> Shards:
        """Split "train" or "val" of a prepared corpus."""
        return cls(load_info(corpus).files(split))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> str:
        return self.get_many([index])[0]

    def get_many(self, indices: Sequence[int]) -> list[str]:
        """The documents with these numbers, in this order."""
        texts = [""] * len(indices)
        wanted: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            if not 0 <= index < self._count:
                raise IndexError(f"document {index} of {self._count}")
            wanted.setdefault(bisect_right(self._starts, index) - 1, []).append(place)
        for group, places in wanted.items():
            column = self._column(group)
            found = column.take([indices[place] - self._starts[group] for place in places]).to_pylist()
            for place, text in zip(places, found, strict=True):
                texts[place] = text
        return texts

    def __iter__(self) -> Iterator[str]:
        """All documents in order."""
        for group in range(len(self._groups)):
            yield from self._read(group).to_pylist()

    def _column(self, group: int) -> Any:
        with self._lock:
            if group in self._cache:
                self._cache.move_to_end(group)
                return self._cache[group]
            column = self._read(group)
            self._cache[group] = column
            self._cached += column.nbytes
            while self._cached > CACHE_BYTES and len(self._cache) > 1:
                self._cached -= self._cache.popitem(last=False)[1].nbytes
            return column

    def _read(self, group: int) -> Any:
        place, inside = self._groups[group]
        with opened(self.files[place], self._footers[place]) as file:
            return _texts(file, inside, self.files[place])


@contextmanager
def opened(path: Path, footer: Any = None) -> Iterator[Any]:
    """A pyarrow ParquetFile with a column `text` and at least one row; UserError names a file that is not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, metadata=footer) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise UserError(f"{path} has no column text", f"Its columns are: {', '.join(names)}")
            kind = file.schema_arrow.field("text").type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise UserError(f"the column text of {path} holds {kind}, not strings")
            if file.metadata.num_rows == 0:
                raise UserError(f"{path} has no rows", "Delete it or get it again")
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0][:150]
        raise UserError(f"cannot read {path} ({reason})", "It may be damaged; get it again") from None


def scan(path: Path) -> ShardInfo:
    """Read a shard through: proves that it is whole, and counts documents and bytes."""
    import pyarrow.compute as pc

    total = 0
    with opened(path) as file:
        for group in range(file.metadata.num_row_groups):
            lengths = pc.binary_length(_texts(file, group, path))
            total += pc.sum(lengths).as_py() or 0
        return ShardInfo(path.name, file.metadata.num_rows, total, path.stat().st_size)


def _texts(file: Any, group: int, path: Path) -> Any:
    column = file.read_row_group(group, columns=["text"]).column("text").combine_chunks()
    if column.null_count:
        raise UserError(f"{path} has {column.null_count} rows without text", "Remove them or import the files anew")
    return column
