"""Shards: parquet files with a column `text`, read by document number."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Any

from nanochat.console import UserError, say
from nanochat.dataset.info import ShardInfo, load_info

CACHE_BYTES = 256 << 20  # of decoded row groups, per reader
POLL = 1.0  # seconds between two looks for a shard that is being downloaded


class Shards:
    """The documents of one split by number: `shards.get_many([3, 1]) -> [text, text]`.

    Files are opened in order, once a document in them is asked for; one that is being downloaded is waited for.
    Any size of row groups works; those used last stay in memory, so neighbours are cheap.
    Threads may share one.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._groups: list[tuple[int, int]] = []  # (file, row group in it)
        self._starts: list[int] = []  # document number at which the group begins
        self._footers: list[Any] = []  # of the files opened so far
        self._count = 0  # documents in them
        self._cache: OrderedDict[int, Any] = OrderedDict()  # group number -> its texts as an arrow array
        self._cached = 0
        self._opening, self._caching = threading.Lock(), threading.Lock()

    @classmethod
    def open(cls, corpus: str, split: str) -> Shards:
        """Split "train" or "val" of a prepared corpus."""
        return cls(load_info(corpus).files(split))

    def __len__(self) -> int:
        """All documents: waits for the last shard."""
        while self._reaches(self._count):
            pass
        return self._count

    def __getitem__(self, index: int) -> str:
        return self.get_many([index])[0]

    def wrapped(self, number: int) -> int:
        """The index of document `number` where counting goes on at the first one after the last."""
        return number if self._reaches(number) else number % self._count

    def get_many(self, indices: Sequence[int]) -> list[str]:
        """The documents with these numbers, in this order."""
        texts = [""] * len(indices)
        wanted: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            if index < 0 or not self._reaches(index):
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
        group = 0
        while group < len(self._groups) or self._reaches(self._count):
            yield from self._read(group).to_pylist()
            group += 1

    def _reaches(self, index: int) -> bool:
        """Whether there is a document `index`; opens the files up to it."""
        if index < self._count:
            return True
        with self._opening:
            while index >= self._count and len(self._footers) < len(self.files):
                self._open_next()
            return index < self._count

    def _open_next(self) -> None:
        place, path = len(self._footers), self.files[len(self._footers)]
        _wait_for(path)
        with opened(path) as file:
            footer = file.metadata
        start = self._count
        for group in range(footer.num_row_groups):
            self._groups.append((place, group))
            self._starts.append(start)
            start += footer.row_group(group).num_rows
        self._footers.append(footer)
        self._count = start  # last: other threads may read below it now

    def _column(self, group: int) -> Any:
        with self._caching:
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


def _wait_for(path: Path) -> None:
    """Return when the file is there; UserError when it is not and nobody is downloading it."""
    from nanochat.dataset.hub import downloading

    said = False
    while not path.exists():
        # A download may end between two questions, so the file is looked for once more after this one.
        if not downloading(path.parent) and not path.exists():
            raise UserError(
                f"{path} is missing, and no download is under way",
                "Run the download again (python -m nanochat.dataset), which goes on where it was",
            )
        if not said:
            say(f"waiting for {path.name}, which is being downloaded")
            said = True
        sleep(POLL)


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
            texts = _texts(file, group, path)
            texts.validate(full=True)  # UTF-8, which parquet itself does not promise
            lengths = pc.binary_length(texts)
            total += pc.sum(lengths).as_py() or 0
        return ShardInfo(path.name, file.metadata.num_rows, total, path.stat().st_size)


def _texts(file: Any, group: int, path: Path) -> Any:
    """The texts of one row group as an arrow array; UserError names the first row without text."""
    import pyarrow.compute as pc

    column = file.read_row_group(group, columns=["text"]).column("text").combine_chunks()
    if column.null_count:
        before = sum(file.metadata.row_group(place).num_rows for place in range(group))
        row = before + pc.index(pc.is_null(column), True).as_py() + 1
        raise UserError(f"row {row:,} of {path} has no text", "Prepare it with --skip-bad to leave out such rows")
    return column
