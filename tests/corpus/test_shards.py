from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.corpus import Shards, shards, writing
from nanochat.corpus.info import CorpusInfo, find_info
from nanochat.corpus.names import load_info
from nanochat.corpus.shards import scan
from nanochat.corpus.shuffle import shuffled
from nanochat.corpus.writing import write_corpus
from nanochat.paths import data_dir

checked = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write_parquet(path: Path, texts: list[str | None], group: int = 3) -> Path:
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), path, row_group_size=group)
    return path


@checked
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    group=st.integers(1, 10),
    cache=st.sampled_from([1, 100, 1 << 20]),
    data=st.data(),
)
def test_any_document_by_number(tmp_path: Path, sizes: list[int], group: int, cache: int, data: st.DataObject) -> None:
    everything = [f"file {place} row {row} {'é' * row}" for place, size in enumerate(sizes) for row in range(size)]
    files, start = [], 0
    for place, size in enumerate(sizes):
        files.append(write_parquet(tmp_path / f"{place}.parquet", list(everything[start : start + size]), group))
        start += size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CACHE_BYTES", cache)
        reader = Shards(files)
        assert len(reader) == len(everything)
        assert list(reader) == everything
        for _ in range(3):
            wanted = data.draw(st.lists(st.integers(0, len(everything) - 1), max_size=12))
            assert reader.get_many(wanted) == [everything[index] for index in wanted]
    assert sum(scan(file).bytes for file in files) == sum(len(text.encode()) for text in everything)


def test_numbers_beyond_the_end(tmp_path: Path) -> None:
    reader = Shards([write_parquet(tmp_path / "a.parquet", ["a", "b"])])
    assert reader[1] == "b"
    for index in (-1, 2):
        with pytest.raises(IndexError):
            reader.get_many([0, index])


def test_a_group_is_read_once_while_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Shards([write_parquet(tmp_path / "a.parquet", [str(number) for number in range(12)], 3)])
    reads: list[int] = []
    read = reader._read
    monkeypatch.setattr(reader, "_read", lambda file, group: reads.append(group) or read(file, group))
    for start in range(0, 12, 2):
        reader.get_many([start, start + 1])
    reader.get_many([0, 11])
    assert reads == [0, 1, 2, 3]


@pytest.fixture
def opened_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were opened."""
    names: list[str] = []
    real = shards.opened

    @contextmanager
    def opened(path: Path, footer: Any = None) -> Iterator[Any]:
        names.append(path.stem)
        with real(path, footer) as file:
            yield file

    monkeypatch.setattr(shards, "opened", opened)
    return names


def corpus_of(folder: Path, files: int) -> CorpusInfo:
    infos = [scan(write_parquet(folder / f"{place}.parquet", [f"{place}.{row}" for row in range(9)])) for place in
             range(files)]  # fmt: skip
    return CorpusInfo("mine", "here", folder, tuple(infos))


def test_only_files_that_are_read_are_opened(tmp_path: Path, opened_files: list[str]) -> None:
    """So a resumed training begins in the last of many files as quickly as in the first."""
    reader = Shards.of(corpus_of(tmp_path, 7), "train")
    opened_files.clear()
    assert len(reader) == 54
    assert reader.wrapped(54 + 50) == 50
    assert not opened_files
    assert reader[50] == "5.5"
    assert set(opened_files) == {"5"}


def test_few_footers_stay_in_memory(tmp_path: Path, opened_files: list[str]) -> None:
    reader = Shards.of(corpus_of(tmp_path, shards.FOOTERS + 9), "train")
    assert [reader[place * 9] for place in range(shards.FOOTERS + 8)] == [
        f"{place}.0" for place in range(shards.FOOTERS + 8)
    ]
    assert reader._layout.cache_info().currsize == shards.FOOTERS
    opened_files.clear()
    assert reader[9 * shards.FOOTERS + 1] == f"{shards.FOOTERS}.1"  # its footer and its row group are still there
    assert reader[1] == "0.1"
    assert opened_files == ["0"]  # its row group is, and only the footer is read again


def test_a_file_that_is_not_what_the_notes_say(tmp_path: Path) -> None:
    reader = Shards.of(corpus_of(tmp_path, 3), "train")
    write_parquet(tmp_path / "1.parquet", ["only one"])
    assert reader[8] == "0.8"
    with pytest.raises(UserError, match=r"1.parquet has 1 documents, and meta.json says 9"):
        reader.get_many([9])


def test_threads_share_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CACHE_BYTES", 1)
    texts: list[str | None] = [str(number) for number in range(200)]
    reader = Shards([write_parquet(tmp_path / "a.parquet", texts, 7)])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: reader.get_many(range(start, 200, 8)), range(8)))
    assert found == [texts[start::8] for start in range(8)]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"not parquet at all"])
def test_damaged_shards_are_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "shard_00007.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"cannot read .*shard_00007.parquet"):
        len(Shards([tmp_path / "shard_00007.parquet"]))


def test_a_shard_damaged_in_the_middle(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [str(number) * 50 for number in range(500)], 100)
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*a.parquet"):
        scan(path)


def test_shards_without_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"title": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    write_parquet(tmp_path / "c.parquet", [])
    for name, complaint in (("a", "no column text"), ("b", "holds int64"), ("c", "no rows")):
        with pytest.raises(UserError, match=complaint):
            len(Shards([tmp_path / f"{name}.parquet"]))
    with pytest.raises(
        UserError, match=r"row 5 of .*d.parquet has no text.*python -m nanochat.dataset --dataset NAME --skip-bad"
    ):
        scan(write_parquet(tmp_path / "d.parquet", ["a", "b", "c", "d", None, "f", None]))


def test_a_shard_that_is_not_utf8(tmp_path: Path) -> None:
    latin = pa.array([b"caf\xe9"], pa.binary())
    pq.write_table(pa.table({"text": latin.view(pa.string())}), tmp_path / "latin.parquet")
    with pytest.raises(UserError, match=r"latin\.parquet.*UTF8"):
        scan(tmp_path / "latin.parquet")


def test_a_corpus_is_found_by_the_name_or_path_that_was_typed(base: Path) -> None:
    write_corpus("my-texts", "made here", [f"text {number}" for number in range(60)], {}, 600)
    for typed in ("my-texts", "my_texts", "My Texts", "some/where/my_texts"):
        assert load_info(typed).name == "my-texts"
    with pytest.raises(UserError, match="no prepared dataset 'mine'"):
        load_info("mine")


def test_written_shards(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "SHARD_BYTES", 4000)
    texts = [f"document {number} " * 3 for number in range(500)]
    info = write_corpus("mine", "here", iter(texts), {"seed": 1}, 20_000, {"world.json": {"seed": 1}})
    assert info == load_info("mine")
    assert len(info.shards) > 3
    assert sorted(file.name for file in data_dir("mine").iterdir()) == [
        "meta.json",
        *(f"shard_{place:05d}.parquet" for place in range(len(info.shards))),
        "world.json",
    ]
    train, val = Shards.open("mine", "train"), Shards.open("mine", "val")
    assert list(val) == texts[::50]
    assert list(train) == [text for number, text in enumerate(texts) if number % 50]
    assert (info.train_docs, info.val_docs) == (490, 10)
    assert info.bytes == sum(len(text) for text in texts)
    assert [scan(data_dir("mine") / shard.file) for shard in info.shards] == list(info.shards)
    with pytest.raises(UserError, match="unknown split"):
        Shards.open("mine", "test")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), UserError("bad text"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_write_that_fails(base: Path, error: BaseException) -> None:
    info = write_corpus("mine", "here", ["a", "b", "c"], {}, 3)

    def texts() -> object:
        yield "new"
        yield "new too"
        raise error

    with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
        write_corpus("mine", "here", texts(), {}, 3)  # type: ignore[arg-type]
    assert load_info("mine") == info
    assert [file.name for file in (base / "data").iterdir()] == ["mine"]
    assert list(Shards.open("mine", "train")) == ["b", "c"]


@pytest.mark.parametrize("texts", [[], ["only one"]])
def test_too_little_to_split(base: Path, texts: list[str]) -> None:
    with pytest.raises(UserError, match=f"here holds {len(texts)} document"):
        write_corpus("mine", "here", texts, {}, 1)
    assert find_info("mine") is None
    assert list((base / "data").iterdir()) == []


def test_a_damaged_meta_file(base: Path) -> None:
    write_corpus("mine", "here", ["a", "b"], {}, 1)
    for content in ("", "{}", "[]", '{"version": 99}', '{"version": 1, "shards": [{"x": 1}]}'):
        (data_dir("mine") / "meta.json").write_text(content)
        with pytest.raises(UserError, match=r"meta.json"):
            load_info("mine")


@pytest.mark.parametrize("pile", [1 << 30, 300])
def test_shuffling_keeps_every_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pile: int) -> None:
    monkeypatch.setattr("nanochat.corpus.shuffle.PILE", pile)
    texts = [f"é{number}" for number in range(300)]
    first = list(shuffled(texts, 1, 1200, tmp_path))
    assert sorted(first) == sorted(texts)
    assert first == list(shuffled(texts, 1, 1200, tmp_path))
    assert first != list(shuffled(texts, 2, 1200, tmp_path))
    # spread over the whole: the first half of the documents is not found in one half of the order
    assert 50 < sum(text in texts[:150] for text in first[:150]) < 100
    assert list(tmp_path.iterdir()) == []
