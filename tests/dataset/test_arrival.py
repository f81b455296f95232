"""Training while shards still arrive: the loader waits, says so, and gives the stream of one that had all of them."""

from __future__ import annotations

import fcntl
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.console import UserError
from nanochat.dataset import Shards, loader, packing, shards
from nanochat.dataset.info import META, CorpusInfo, load_info
from nanochat.dataset.loader import Loader, TextSource
from nanochat.dataset.shards import scan
from nanochat.machine import Ranks
from nanochat.paths import data_dir, write_json
from nanochat.tokenizer import Tokenizer

BYTES = Tokenizer({bytes([value]): value for value in range(256)})


@pytest.fixture
def whole(base: Path, tmp_path: Path) -> list[Path]:
    """Five shards in a folder of their own; the last is validation."""
    files = []
    for place in range(5):
        texts = [f"shard {place} row {row} " + "é" * (row * 7 % 50) for row in range(40 + place)]
        files.append(tmp_path / f"shard_{place:05d}.parquet")
        pq.write_table(pa.table({"text": texts}), files[-1], row_group_size=7)
    return files


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that training needs a few documents at a time, not all of this corpus at once."""
    monkeypatch.setattr(packing, "BUFFER", 2)
    monkeypatch.setattr(packing, "REFILL", 1)


@contextmanager
def download(whole: list[Path], arrived: int) -> Iterator[Iterator[str]]:
    """The corpus while it is downloaded: the validation shard and the first `arrived` ones are there.

    Every step of the iterator lets the next shard arrive and gives its name.
    """
    folder = data_dir("climbmix")
    folder.mkdir(parents=True)
    there = [*whole[:arrived], whole[-1]]
    infos = [scan(file) if file in there else replace(scan(file), documents=0, bytes=0) for file in whole]
    write_json(folder / META, CorpusInfo("climbmix", "climbmix", folder, tuple(infos)).to_json())

    def arrive(file: Path) -> str:
        part = folder / f"{file.name}.part"
        part.write_bytes(file.read_bytes())
        return part.rename(folder / file.name).name

    for file in there:
        arrive(file)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield (arrive(file) for file in whole[arrived:-1])


def steps(files: list[Path], count: int) -> Iterator[list[list[int]]]:
    ahead = iter(Loader(TextSource(Shards(files), BYTES), 63, 16, 16, Ranks(), True))
    try:
        for step in itertools.islice(ahead, count):
            yield [row for batch in step.micro for row in batch.ids.tolist()]
    finally:
        ahead.close()


@pytest.mark.usefixtures("small_buffers")
def test_the_stream_is_that_of_shards_that_were_all_there(
    whole: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with download(whole, 1) as arrivals:
        monkeypatch.setattr(shards, "sleep", lambda _: next(arrivals))
        found = list(steps(load_info("climbmix").files("train"), 30))
        assert list(arrivals) == []
    assert found == list(steps(whole[:-1], 30))
    said = capsys.readouterr().out.splitlines()
    assert said == [f"waiting for shard_0000{place}.parquet, which is being downloaded" for place in (1, 2, 3)]


def test_only_the_shards_asked_for_are_waited_for(whole: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "sleep", lambda _: pytest.fail("waited"))
    with download(whole, 2):
        train, val = Shards.open("climbmix", "train"), Shards.open("climbmix", "val")
        assert train.get_many([80, 3]) == ["shard 1 row 40 " + "é" * 30, "shard 0 row 3 " + "é" * 21]
        assert [train.wrapped(number) for number in (0, 80)] == [0, 80]
        assert len(list(itertools.islice(train, 81))) == 81
        assert len(val) == 44


def test_counting_and_reading_through_wait_for_the_last_one(whole: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with download(whole, 1) as arrivals:
        monkeypatch.setattr(shards, "sleep", lambda _: next(arrivals))
        assert len(Shards.open("climbmix", "train")) == 40 + 41 + 42 + 43
    assert list(Shards.open("climbmix", "train")) == list(Shards(whole[:-1]))
    assert Shards.open("climbmix", "train").wrapped(2 * 166 + 5) == 5


def test_it_is_said_once_while_a_shard_takes_long(
    whole: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with download(whole, 3) as arrivals:
        looks = itertools.count()
        monkeypatch.setattr(shards, "sleep", lambda _: next(looks) < 5 or next(arrivals))
        assert len(Shards.open("climbmix", "train")) == 166
    assert capsys.readouterr().out.count("waiting for shard_00003.parquet") == 1


def test_a_download_that_stopped_is_an_error(whole: list[Path]) -> None:
    with download(whole, 2):
        info = load_info("climbmix")
        train = Shards(info.files("train"))
        assert [shard.file for shard in info.pending] == ["shard_00002.parquet", "shard_00003.parquet"]
    with pytest.raises(UserError, match=r"shard_00002.parquet is missing, and no download is under way.*again"):
        train.get_many([81])
    assert train[80].startswith("shard 1 row 40")
    with pytest.raises(UserError, match=r"lacks .*shard_00002.parquet.*--dataset climbmix again"):
        load_info("climbmix")


def test_a_shard_that_arrived_just_before_the_download_ended(whole: list[Path]) -> None:
    with download(whole, 2) as arrivals:
        info = load_info("climbmix")
        list(arrivals)
    assert load_info("climbmix") == info
    assert len(Shards(info.files("train"))) == 166


def test_a_shard_that_was_there_and_is_gone_is_not_waited_for(whole: list[Path]) -> None:
    with download(whole, 2):
        (data_dir("climbmix") / "shard_00001.parquet").unlink()
        with pytest.raises(UserError, match=r"lacks .*shard_00001.parquet"):
            load_info("climbmix")


@pytest.mark.usefixtures("small_buffers")
def test_one_may_leave_while_a_shard_is_waited_for(whole: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, arrived = threading.Event(), threading.Event()
    monkeypatch.setattr(shards, "sleep", lambda _: (waiting.set(), arrived.wait()))
    monkeypatch.setattr(loader, "LEAVE", 0.01)
    with download(whole, 2) as arrivals:
        stream = steps(load_info("climbmix").files("train"), 30)
        assert len(next(stream)) == 16
        waiting.wait()
        stream.close()
        assert not arrived.is_set()
        list(arrivals)
        arrived.set()


def test_a_killed_download_ends_the_wait(whole: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock goes with its process, however that ends."""
    with download(whole, 1):
        pass
    lock = data_dir("climbmix") / ".lock"
    code = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"

        def kill(_: float) -> None:
            holder.kill()
            holder.wait()

        monkeypatch.setattr(shards, "sleep", kill)
        with pytest.raises(UserError, match="no download is under way"):
            Shards.open("climbmix", "train").get_many([40])
