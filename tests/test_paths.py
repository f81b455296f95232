"""Files and folders appear whole or not at all, whenever their writer is killed, and readers disturb nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat import checkpoint, paths
from nanochat.console import UserError
from nanochat.corpus.info import find_info
from nanochat.corpus.shards import Shards
from nanochat.corpus.writing import write_corpus
from nanochat.paths import is_inside, replace_folder, tokenizer_dir, whole, write_atomic, write_json
from nanochat.tokenizer import Tokenizer

# Raised by Python before it asks the system; the last one is nanochat's own way of renaming.
CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree", "exchange"}


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.fixture(params=["exchange", pytest.param("two renames", marks=pytest.mark.slow)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a folder takes another one's place: as Linux and macOS can, and as other systems do."""
    if request.param == "two renames":
        monkeypatch.setattr(paths, "exchange", lambda a, b: False)
    else:
        real = paths.exchange
        monkeypatch.setattr(paths, "exchange", lambda a, b: sys.audit("exchange") or real(a, b))
    return str(request.param)


def killed_at(call: int, write: Callable[[], object]) -> bool:
    """Run `write` in a child process that is killed before its `call`-th file-system call; whether it came that far."""

    def child() -> None:
        seen = 0

        def count(event: str, args: tuple[object, ...]) -> None:
            nonlocal seen
            if event in CALLS:
                seen += 1
                if seen == call:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        write()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def write_checkpoint(text: str) -> None:
    with checkpoint.create("base", "d1", 5) as folder:
        (folder / "tokenizer").mkdir()
        for name in ("meta.json", "ranks.tiktoken", "token_bytes.json", "tokenizer.json"):
            (folder / "tokenizer" / name).write_text("{}")
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(text)


def read_checkpoint() -> str:
    folder = checkpoint.find("base", "d1", 5)
    checkpoint.verify(folder)
    return (folder / "model.safetensors").read_text()


def write_tokenizer(text: str) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    Tokenizer({**ranks, text.encode(): 256}).save(tokenizer_dir())


def read_tokenizer() -> str:
    return Tokenizer.load(tokenizer_dir()).decode([256])


def write_texts(text: str) -> None:
    write_corpus("mine", "a test", [f"{text} {n}" for n in range(60)], {"text": text}, 100, {"extra.json": {}})


def read_texts() -> str:
    info = find_info("mine")
    assert info
    text = str(info.settings["text"])
    found = sorted([*Shards.of(info, "train"), *Shards.of(info, "val")])
    assert found == sorted(f"{text} {n}" for n in range(60))
    return text


KINDS = {
    "checkpoint": (write_checkpoint, read_checkpoint),
    "tokenizer": (write_tokenizer, read_tokenizer),
    "corpus": (write_texts, read_texts),
}


@pytest.mark.parametrize(
    ("kind", "stride"), [("checkpoint", 2), *(pytest.param(kind, 1, marks=pytest.mark.slow) for kind in KINDS)]
)
def test_a_writer_killed_at_any_call_loses_nothing(kind: str, stride: int, way: str, base: Path) -> None:
    """The old one or the new one is read after every kill, and after a second kill at the same place; the next writer
    comes through, and cleans up. stride: 2 tries every second call."""
    write, read = KINDS[kind]
    write("ab")
    there = {p.name for p in base.rglob("*")}
    found = set()
    call = 1 - stride
    while True:
        call += stride
        came_through = 0
        for _ in range(2):
            came_through += not killed_at(call, lambda: write("cd"))
            names = set(base.rglob("*"))
            found.add(read())
            assert set(base.rglob("*")) == names, "a reader changed something"
        if came_through == 2:
            break
        write("ab")
        assert read() == "ab"
        assert {p.name for p in base.rglob("*")} == there, "something is left over"
    assert found == {"ab", "cd"} and call > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_first_writer_killed_at_any_call_leaves_nothing_half(kind: str, base: Path) -> None:
    write, read = KINDS[kind]
    call = 0
    while killed_at(call := call + 1, lambda: write("cd")):
        try:
            assert read() == "cd"
        except (UserError, AssertionError):  # nothing there yet
            assert not checkpoint.steps("base", "d1") and find_info("mine") is None
            assert not tokenizer_dir().exists()
    assert read() == "cd" and call > 5


def test_a_reader_beside_the_writer_always_finds_a_checkpoint(base: Path) -> None:
    """Today's or yesterday's, and the writer never fails."""
    write_checkpoint("0")
    stop, failures = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            try:
                checkpoint.find("base")
                assert checkpoint.tags("base") == ["d1"]
            except Exception as error:
                failures.append(error)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(100):
        write_checkpoint(str(number))
    stop.set()
    for reader in readers:
        reader.join()
    assert read_checkpoint() == "99"
    assert not failures, failures[:3]


def test_a_tokenizer_that_is_replaced_while_it_is_read_is_one_or_the_other(base: Path) -> None:
    write_tokenizer("ab")
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for text in ("ab", "cd"):
                write_tokenizer(text)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        assert {read_tokenizer() for _ in range(200)} <= {"ab", "cd"}
    finally:
        stop.set()
        writer.join()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "thing"
    path.mkdir()
    (path / "old").touch()
    yield path
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_body_that_fails_leaves_the_folder_as_it_was(folder: Path, way: str) -> None:
    def fail() -> None:
        with replace_folder(folder) as part:
            (part / "new").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.name for p in folder.iterdir()] == ["old"]


def test_a_failing_rename_leaves_the_folder_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "exchange", lambda a, b: False)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="cannot write .*thing: No space left on device"), replace_folder(folder):
        pass
    assert [p.name for p in folder.iterdir()] == ["old"]


def test_a_folder_is_replaced(folder: Path, way: str) -> None:
    with replace_folder(folder) as part:
        (part / "in").mkdir()
        (part / "in/new").touch()
    assert [p.name for p in folder.rglob("*")] == ["in", "new"] and whole(folder) == folder


def test_a_link_to_a_folder_stays_one(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    with replace_folder(link) as part:
        (part / "new").touch()
    assert link.is_symlink() and [p.name for p in folder.iterdir()] == ["new"]


def test_names_change_places_at_once_here(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    if not paths.exchange(folder, other):
        pytest.skip("this file system cannot exchange names")
    assert [p.name for p in other.iterdir()] == ["old"] and not list(folder.iterdir())
    with pytest.raises(OSError, match="No such file"):
        paths.exchange(folder, tmp_path / "nothing")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_json(path, {"a": "ü", "b": os.fsdecode(b"\xff")})
    assert json.loads(path.read_text()) == {"a": "ü", "b": "\udcff"}
    before, call = path.read_bytes(), 0
    while killed_at(call := call + 1, lambda: write_atomic(path, b"new" * 1000)):
        assert path.read_bytes() in (before, b"new" * 1000)
    assert path.read_bytes() == b"new" * 1000 and call > 2
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "file" / "x", "text")


@pytest.mark.parametrize(
    "name", ["a", "a/b.parquet", "data/train-00000-of-00001.parquet", "ä b/c", "a..b", "..a", "a."]
)
def test_names_that_stay_inside(name: str) -> None:
    assert is_inside(name)


@pytest.mark.parametrize(
    "name",
    ["", "..", "../a", "a/../../b", "a/..", "/a", "a//b", "./a", "a/", "\\a", "..\\a", "a\\..\\b", "C:a", "C:\\a",
     "C:/a", "a\0b", "a\nb", "\x1b[2Ja", "a\u202eb"],
)  # fmt: skip
def test_names_that_do_not(name: str) -> None:
    assert not is_inside(name)


def test_the_base_folder_and_its_parts(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.base_dir() == base and base.is_dir()
    assert paths.model_runs_dir("base", "d4") == base / "runs" / "base-d4"
    assert paths.checkpoints_dir("sft") == base / "chatsft_checkpoints"
    with pytest.raises(UserError, match="unknown stage 'x'. Choose one of base, mid, sft, rl"):
        paths.checkpoints_dir("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "~/there")
    assert paths.base_dir() == tmp_path / "there"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "")
    assert paths.base_dir() == tmp_path / ".cache" / "nanochat"
    (tmp_path / "file").touch()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "file" / "x"))
    with pytest.raises(UserError, match="cannot make the folder"):
        paths.base_dir()
    for home in ("", "relative"):
        monkeypatch.setenv("HOME", home)
        monkeypatch.delenv("NANOCHAT_BASE_DIR", raising=False)
        with pytest.raises(UserError, match="there is no home directory"):
            paths.base_dir()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "~nobody-of-this-name/x")
    with pytest.raises(UserError, match="Set NANOCHAT_BASE_DIR"):
        paths.base_dir()


def test_slugs_and_disks(tmp_path: Path) -> None:
    assert [paths.slug(x) for x in ("My Texts!", "--", "ä", "a_b")] == ["my-texts", "unnamed", "ä", "a-b"]
    assert [paths.slug(x) for x in ("Заметки 2", "हिन्दी", "日本語/テ", "\udcff🎉")] == [
        "заметки-2", "हिन्दी", "日本語-テ", "unnamed",
    ]  # fmt: skip
    assert paths.slug("cafe\u0301") == paths.slug("café")  # as macOS spells names
    assert len(paths.slug("я" * 500).encode()) <= 120
    paths.require_disk(tmp_path / "not" / "there", 1, "this")
    with pytest.raises(UserError, match="this needs .* GB on the disk"):
        paths.require_disk(tmp_path, 1 << 60, "this")
