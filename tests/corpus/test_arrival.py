"""Training while shards still arrive: the loader waits, says so, and gives the stream of one that had all of them."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.console import UserError
from nanochat.corpus import Shards, arrival, hub, names, shards
from nanochat.corpus.arrival import download_shards
from nanochat.corpus.info import META, CorpusInfo, ShardInfo, find_info
from nanochat.corpus.names import load_info
from nanochat.corpus.shards import scan
from nanochat.corpus.transfer import RemoteFile
from nanochat.feed import loader, packing
from nanochat.feed.loader import Loader, TextSource
from nanochat.machine import Ranks
from nanochat.paths import data_dir, write_json
from nanochat.tokenizer import Tokenizer
from tests.corpus.conftest import write_parquet

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


class Download:
    """The corpus while it is downloaded: the validation shard and the first `arrived` ones are there."""

    def __init__(self, whole: list[Path], arrived: int) -> None:
        self.folder = data_dir("climbmix")
        self.folder.mkdir(parents=True)
        self.coming = whole[arrived:-1]
        self.shards = [replace(scan(file), documents=0, bytes=0) for file in whole]
        self.skipped: list[ShardInfo] = []
        for file in (*whole[:arrived], whole[-1]):
            self._note(self._place(file))

    def arrive(self) -> None:
        """Let the next shard arrive."""
        self._note(self._place(self.coming.pop(0)))

    def place(self) -> None:
        """Let the next shard stand under its name, before it is read through."""
        self._place(self.coming[0])

    def skip(self) -> None:
        """Find out that the next shard is bad."""
        name = self.coming.pop(0).name
        self.skipped += [shard for shard in self.shards if shard.file == name]
        self.shards = [shard for shard in self.shards if shard.file != name]
        self._write()

    def _place(self, file: Path) -> Path:
        part = self.folder / f"{file.name}.part"
        part.write_bytes(file.read_bytes())
        return part.rename(self.folder / file.name)

    def _note(self, file: Path) -> None:
        self.shards = [scan(file) if shard.file == file.name else shard for shard in self.shards]
        self._write()

    def _write(self) -> None:
        info = CorpusInfo("climbmix", "climbmix", self.folder, tuple(self.shards), skipped=tuple(self.skipped))
        write_json(self.folder / META, info.to_json())


@contextmanager
def download(whole: list[Path], arrived: int) -> Iterator[Download]:
    under_way = Download(whole, arrived)
    with hub.download_lock(under_way.folder):
        yield under_way


def steps(shards: Shards, count: int) -> Iterator[list[list[int]]]:
    ahead = iter(Loader(TextSource(shards, BYTES), 63, 16, 16, Ranks(), True))
    try:
        for step in itertools.islice(ahead, count):
            yield [row for batch in step.micro for row in batch.ids.tolist()]
    finally:
        ahead.close()


@pytest.mark.usefixtures("small_buffers")
def test_the_stream_is_that_of_shards_that_were_all_there(
    whole: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with download(whole, 1) as under_way:
        monkeypatch.setattr(shards, "sleep", lambda _: under_way.arrive())
        found = list(steps(Shards.open("climbmix", "train"), 30))
        assert not under_way.coming
    assert found == list(steps(Shards(whole[:-1]), 30))
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
    with download(whole, 1) as under_way:
        monkeypatch.setattr(shards, "sleep", lambda _: under_way.arrive())
        assert len(Shards.open("climbmix", "train")) == 40 + 41 + 42 + 43
    assert list(Shards.open("climbmix", "train")) == list(Shards(whole[:-1]))
    assert Shards.open("climbmix", "train").wrapped(2 * 166 + 5) == 5


def test_it_is_said_once_while_a_shard_takes_long(
    whole: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with download(whole, 3) as under_way:
        looks = itertools.count()
        monkeypatch.setattr(shards, "sleep", lambda _: next(looks) < 5 or under_way.arrive())
        assert len(Shards.open("climbmix", "train")) == 166
    assert capsys.readouterr().out.count("waiting for shard_00003.parquet") == 1


def test_a_download_that_stopped_is_an_error(whole: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "sleep", lambda _: None)
    with download(whole, 2) as under_way:
        info = load_info("climbmix")
        train = Shards.of(info, "train")
        assert [shard.file for shard in info.pending] == ["shard_00002.parquet", "shard_00003.parquet"]
        under_way.place()
    with pytest.raises(UserError, match=r"shard_00002.parquet is missing, and no download is under way.*again"):
        train.get_many([81])
    assert train[80].startswith("shard 1 row 40")
    with pytest.raises(
        UserError, match=r"lacks .*shard_00002.parquet.*--dataset climbmix -n 4 again, or with a smaller -n"
    ):
        load_info("climbmix")


def test_a_download_that_is_begun_again_at_once_is_waited_for(whole: list[Path]) -> None:
    with download(whole, 1) as under_way:
        train = Shards.open("climbmix", "train")
    looks = itertools.count()

    def begun_again(_: float) -> None:
        if next(looks) == 0:
            stack.enter_context(hub.download_lock(under_way.folder))
        else:
            under_way.arrive()

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "sleep", begun_again)
        assert train[40].startswith("shard 1 row 0")


def test_a_shard_that_arrived_just_before_the_download_ended(
    whole: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file list is older than the end of the download, and the lock is free."""
    monkeypatch.setattr(shards, "sleep", lambda _: pytest.fail("waited"))
    with download(whole, 3) as under_way:
        info = load_info("climbmix")
        under_way.arrive()
    assert len(Shards.of(info, "train")) == 166

    before = under_way.shards[3]
    under_way.shards[3] = replace(before, documents=0)
    under_way._write()

    def ended(folder: Path) -> bool:
        under_way.shards[3] = before
        under_way._write()
        return False

    monkeypatch.setattr(names, "downloading", ended)
    assert load_info("climbmix").train_docs == 166


def test_a_shard_counts_when_it_was_read_through(whole: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with download(whole, 3) as under_way:
        waits = itertools.count()
        monkeypatch.setattr(shards, "sleep", lambda _: under_way.place() if next(waits) == 0 else under_way.arrive())
        assert len(Shards.open("climbmix", "train")) == 166
        assert next(waits) == 2


@pytest.mark.usefixtures("small_buffers")
def test_a_skipped_shard_is_as_if_it_had_never_been_planned(whole: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with download(whole, 1) as under_way:
        info = load_info("climbmix")
        todo = iter([under_way.skip, under_way.arrive, under_way.skip])
        monkeypatch.setattr(shards, "sleep", lambda _: next(todo)())
        found = list(steps(Shards.of(info, "train"), 30))
    assert next(todo, None) is None
    assert found == list(steps(Shards([whole[0], whole[2]]), 30))
    monkeypatch.setattr(shards, "sleep", lambda _: pytest.fail("waited"))
    again = load_info("climbmix")
    assert found == list(steps(Shards.of(again, "train"), 30))
    assert found == list(steps(Shards.of(info, "train"), 30))
    assert again.train_size == info.train_size == sum(file.stat().st_size for file in whole[:-1])
    assert (again.train_docs, info.train_docs) == (40 + 42, 40)


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
    with download(whole, 2) as under_way:
        stream = steps(Shards.open("climbmix", "train"), 30)
        assert len(next(stream)) == 16
        waiting.wait()
        stream.close()
        assert not arrived.is_set()
        under_way.arrive()
        under_way.arrive()
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


class FakeHub:
    """Hands out the files of a folder without a network. `before`: called with the name before each file."""

    def __init__(self, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = {file.name: file for file in files}
        self.before: Callable[[str], object] = lambda name: None
        self.commit = "first"
        self.asked: list[str] = []
        monkeypatch.setattr(hub, "remote_files", self._list)
        monkeypatch.setattr(hub, "download", self._download)

    def _list(self, repo: str, commit: str = "") -> dict[str, RemoteFile]:
        self.asked.append(commit)
        return {
            name: RemoteFile(
                repo, name, commit or self.commit, file.stat().st_size, sha256(file.read_bytes()).hexdigest()
            )
            for name, file in self.files.items()
        }

    def _download(self, files: Sequence[RemoteFile], folder: Path, arrived: Callable[[str], None]) -> None:
        for file in files:
            self.before(file.name)
            (folder / file.name).write_bytes(self.files[file.name].read_bytes())
            arrived(file.name)

    def get(self, skip_bad: bool = False, shards: int = 4) -> CorpusInfo:
        names = sorted(self.files)
        return download_shards("climbmix", "owner/text", [*names[:shards], names[-1]], skip_bad)


def test_what_is_still_to_come_stays_planned_when_a_download_stops(
    base: Path, whole: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = FakeHub(whole, monkeypatch)
    seen: list[CorpusInfo | None] = []

    def stop(name: str) -> None:
        if name == "shard_00002.parquet":
            seen.append(load_info("climbmix"))
            raise KeyboardInterrupt

    remote.before = stop
    with pytest.raises(KeyboardInterrupt):
        remote.get()
    assert seen == [find_info("climbmix")]
    with pytest.raises(UserError, match="lacks .*shard_00002.parquet.* -n 4 again, or with a smaller -n"):
        load_info("climbmix")
    remote.before = lambda name: None
    finished = remote.get()
    assert seen[0]
    assert finished.train_size == seen[0].train_size
    assert (finished.pending, load_info("climbmix")) == ((), finished)


def test_a_smaller_plan_replaces_one_that_was_stopped(
    base: Path, whole: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = FakeHub(whole, monkeypatch)
    remote.before = lambda name: name == "shard_00002.parquet" and sys.exit(143)
    with pytest.raises(SystemExit):
        remote.get()
    monkeypatch.setattr(hub, "remote_files", lambda *_: pytest.fail("asked the network"))
    assert [shard.file for shard in remote.get(shards=2).shards] == [whole[place].name for place in (0, 1, 4)]
    assert load_info("climbmix").pending == ()


def test_without_a_shard_for_training_nothing_is_left(
    base: Path, whole: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = FakeHub(whole, monkeypatch)
    remote.before = lambda name: name == "shard_00000.parquet" and sys.exit(143)
    with pytest.raises(SystemExit):
        remote.get()
    assert find_info("climbmix") is None


def test_what_a_killed_process_left_is_deleted_once_all_is_there(
    whole: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = FakeHub(whole, monkeypatch)
    info = remote.get()
    left = info.folder / f".{META}.123.part"
    left.write_text("half")
    monkeypatch.setattr(hub, "remote_files", lambda *_: pytest.fail("asked the network"))
    assert remote.get() == info
    assert not left.exists()


def test_a_folder_that_cannot_be_written_any_more_is_one_clear_error(
    whole: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one about the meta.json that cannot be deleted then, either."""
    remote = FakeHub(whole, monkeypatch)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    def fail(_: str) -> None:
        monkeypatch.setattr(Path, "unlink", refuse)
        raise UserError("the disk failed")

    remote.before = fail
    with pytest.raises(UserError, match="the disk failed"):
        remote.get()


def test_a_shard_that_was_skipped_stays_so(
    base: Path, whole: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = whole[1].read_bytes()
    write_parquet(whole[1], ["fine", None])
    remote = FakeHub(whole, monkeypatch)
    with pytest.raises(
        UserError, match=r"row 2 of .*shard_00001.parquet has no text. The Hub's copy is bad too: .*--skip-bad"
    ):
        remote.get()
    info = remote.get(skip_bad=True)
    assert [shard.file for shard in info.shards] == [whole[place].name for place in (0, 2, 3, 4)]
    assert [shard.file for shard in info.skipped] == [whole[1].name]
    assert info.train_size == sum(file.stat().st_size for file in whole[:-1])
    assert "left out 1 of 5 shards" in capsys.readouterr().out
    assert load_info("climbmix") == info
    whole[1].write_bytes(good)  # a training that stepped over it would not find its place any more
    (info.folder / whole[1].name).unlink()
    assert remote.get() == info
    (info.folder / whole[2].name).unlink()
    assert remote.get() == info


def rot(path: Path) -> None:
    """Other content of the same size, in the middle of the text."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3 :][:20] = bytes(20)
    data[8:28] = bytes(20)
    path.write_bytes(data)


def test_rot_of_the_same_size_is_found_and_mended(
    base: Path, whole: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where meta.json does not vouch for a file: it was removed, or the file came just before a kill."""
    remote = FakeHub(whole, monkeypatch)
    info = remote.get()
    path = info.folder / whole[1].name
    rot(path)
    (info.folder / META).unlink()
    assert remote.get() == info
    assert path.read_bytes() == whole[1].read_bytes()
    assert f"{path} is not as the Hub has it: downloading it again" in capsys.readouterr().out

    with monkeypatch.context() as patch:  # rot that leaves a text that can be read
        patch.setattr(arrival, "scan", lambda file: next(shard for shard in info.shards if shard.file == file.name))
        rot(path)
        (info.folder / META).unlink()
        assert remote.get() == info
    assert path.read_bytes() == whole[1].read_bytes()

    rot(path)
    (info.folder / META).unlink()

    def unreachable(*_: object) -> None:
        raise hub.Unreachable("no network")

    monkeypatch.setattr(hub, "remote_files", unreachable)
    with pytest.raises(UserError, match=f"cannot read {path} .* Delete {path} and run the command again"):
        remote.get(skip_bad=True)
    path.write_bytes(whole[1].read_bytes())
    assert remote.get() == replace(info, settings={})


def test_more_shards_are_of_the_same_commit(base: Path, whole: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    remote = FakeHub(whole, monkeypatch)
    assert remote.get(shards=2).settings == {"commit": "first"}
    remote.commit = "second"
    assert remote.get().settings == {"commit": "first"}
    assert remote.asked == ["", "first"]
