"""Shards: parquet files with a column `text`, read by document number."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from time import sleep
from typing import Any

from nanochat.console import UserError, say
from nanochat.corpus.info import META, CorpusInfo, ShardInfo, find_info
from nanochat.corpus.names import load_info

CACHE_BYTES = 256 << 20  # of decoded row groups, per reader
FOOTERS = 8  # kept in memory per reader: the streams of a run are never far apart
POLL = 1.0  # seconds between two checks for a shard that is being downloaded
# For a shard of the Hub, this leaves out the whole shard.
NO_TEXT = "Prepare it without such rows: python -m nanochat.dataset --dataset NAME --skip-bad"


class Shards:
    """The documents of one split by number: `shards.get_many([3, 1]) -> [text, text]`.

    A file is opened when one of its documents is needed. If it is still being downloaded, the call waits until
    meta.json says that it has arrived or was skipped; a skipped file is not counted in the document numbers.
    Row groups may have any size; those used last stay in memory, so neighbours are cheap.
    Threads may share one instance.
    """

    def __init__(self, files: Sequence[Path], corpus: CorpusInfo | None = None) -> None:
        """corpus: the corpus of these files; its meta.json is trusted."""
        self._corpus = corpus
        self._notes = {shard.file: shard for shard in corpus.shards} if corpus else {}
        self._coming = deque(files)  # files whose documents have no numbers yet
        self._files: list[Path] = []  # files whose documents have numbers
        self._starts: list[int] = []  # document number at which the file begins
        self._count = 0  # documents in them
        self._layout = lru_cache(FOOTERS)(self._read_layout)
        self._cache: OrderedDict[tuple[int, int], Any] = OrderedDict()  # (file, group) -> its texts as an arrow array
        self._cached = 0
        self._numbering, self._caching = threading.Lock(), threading.Lock()

    @classmethod
    def open(cls, corpus: str, split: str) -> Shards:
        """Split "train" or "val" of a prepared corpus."""
        return cls.of(load_info(corpus), split)

    @classmethod
    def of(cls, corpus: CorpusInfo, split: str) -> Shards:
        return cls(corpus.files(split), corpus)

    def __len__(self) -> int:
        """The number of documents; waits for the last shard."""
        while self._reaches(self._count):
            pass
        return self._count

    def __getitem__(self, index: int) -> str:
        return self.get_many([index])[0]

    def wrapped(self, number: int) -> int:
        """The index of document `number` if the count starts over after the last document."""
        return number if self._reaches(number) else number % self._count

    def get_many(self, indices: Sequence[int]) -> list[str]:
        """The documents with these numbers, in this order."""
        texts = [""] * len(indices)
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (file, group) -> (place in texts, row in the group)
        for place, index in enumerate(indices):
            if index < 0 or not self._reaches(index):
                raise IndexError(f"document {index} of {self._count}")
            file = bisect_right(self._starts, index) - 1
            row = index - self._starts[file]
            _, starts = self._layout(self._files[file])
            group = bisect_right(starts, row) - 1
            wanted.setdefault((file, group), []).append((place, row - starts[group]))
        for (file, group), places in wanted.items():
            found = self._column(file, group).take([row for _, row in places]).to_pylist()
            for (place, _), text in zip(places, found, strict=True):
                texts[place] = text
        return texts

    def __iter__(self) -> Iterator[str]:
        """All documents in order."""
        file = 0
        while file < len(self._files) or self._reaches(self._count):
            _, starts = self._layout(self._files[file])
            for group in range(len(starts)):
                yield from self._read(file, group).to_pylist()
            file += 1

    def _reaches(self, index: int) -> bool:
        """Whether there is a document `index`; numbers the documents of the files up to it."""
        if index < self._count:
            return True
        with self._numbering:
            while index >= self._count and self._coming:
                self._number_next()
            return index < self._count

    def _number_next(self) -> None:
        path = self._coming[0]
        if self._corpus and self._notes[path.name].pending:
            arrived = _arrival(self._corpus, path)
            if not arrived:
                self._coming.popleft()
                return
            self._notes[path.name] = arrived
        documents = self._notes[path.name].documents if self._corpus else self._layout(path)[0].num_rows
        self._coming.popleft()
        self._files.append(path)
        self._starts.append(self._count)
        self._count += documents  # last: other threads may then read up to it

    def _read_layout(self, path: Path) -> tuple[Any, list[int]]:
        """A file's footer, and for each of its row groups the number of rows before it."""
        with opened(path) as file:
            footer = file.metadata
        note = self._notes.get(path.name)
        if note and note.documents != footer.num_rows:
            problem = f"{path} has {footer.num_rows:,} documents, and {META} says {note.documents:,}"
            raise UserError(problem, "Delete it and prepare the dataset again")
        rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        return footer, list(accumulate(rows[:-1], initial=0))

    def _column(self, file: int, group: int) -> Any:
        key = file, group
        with self._caching:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            column = self._read(file, group)
            self._cache[key] = column
            self._cached += column.nbytes
            while self._cached > CACHE_BYTES and len(self._cache) > 1:
                self._cached -= self._cache.popitem(last=False)[1].nbytes
            return column

    def _read(self, file: int, group: int) -> Any:
        path = self._files[file]
        footer, _ = self._layout(path)
        with opened(path, footer) as content:
            return _texts(content, group, path)


def _arrival(corpus: CorpusInfo, path: Path) -> ShardInfo | None:
    """Wait until meta.json lists the planned shard `path` as arrived; return its entry, or None if it was skipped.

    The file may exist long before: it counts only once it has been checked. UserError if no download is running.
    """
    from nanochat.corpus.hub import downloading

    idle, said = 0, False
    while True:
        # Ask this first: if the download ends right after, the meta.json read below has its last entry.
        idle = 0 if downloading(corpus.folder) else idle + 1
        now = find_info(corpus.name)
        if now and any(shard.file == path.name for shard in now.skipped):
            return None
        note = next((shard for shard in now.shards if shard.file == path.name), None) if now else None
        if note and not note.pending:
            return note
        if idle == 2:  # in a row: the download may just be restarting
            raise UserError(
                f"{path} is missing, and no download is under way",
                "Run the download again (python -m nanochat.dataset); it continues where it stopped",
            )
        if not idle and not said:
            say(f"waiting for {path.name}, which is being downloaded")
            said = True
        sleep(POLL)


@contextmanager
def opened(path: Path, footer: Any = None) -> Iterator[Any]:
    """Open a pyarrow ParquetFile; UserError names a file without a column `text` or without rows."""
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
        raise UserError(f"cannot read {path} ({reason})", "It may be damaged: delete it and get it again") from None


def scan(path: Path) -> ShardInfo:
    """Read all of a shard to check that it is complete, and count its documents and bytes."""
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
        raise UserError(f"row {row:,} of {path} has no text", NO_TEXT)
    return column
