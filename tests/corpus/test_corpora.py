from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat import lock
from nanochat.commands import dataset as command
from nanochat.console import UserError
from nanochat.corpus import Shards, corpora, hub, inplace, load_info, prepare, repo_parquets
from nanochat.corpus.corpora import make_tinyworld
from nanochat.corpus.importing import LOCK, one_at_a_time
from nanochat.corpus.names import corpus_name
from nanochat.paths import data_dir

SHARED = Path(__file__).parents[2] / "../shared/data/hub"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when anything asks the network."""

    def refuse(*_: object) -> None:
        pytest.fail("asked the network")

    monkeypatch.setattr(hub, "remote_files", refuse)
    monkeypatch.setattr(hub, "download", refuse)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "My Notes"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_text(f"note number {number}\n")
    (folder / "more.jsonl").write_text("\n".join(json.dumps({"text": f"line {n}"}) for n in range(70)))
    return folder


def files_under(folder: Path) -> list[str]:
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [file for file in files if file != f"data/{LOCK}"]


def test_text_files_are_imported(base: Path, notes: Path) -> None:
    info = prepare(str(notes))
    assert (info.name, info.train_docs, info.val_docs) == ("my-notes", 98, 2)
    everything = [*Shards.open("my-notes", "train"), *Shards.open("my-notes", "val")]
    expected = [f"note number {n}\n" for n in range(30)] + [f"line {n}" for n in range(70)]
    assert sorted(everything) == sorted(expected)
    assert everything != expected
    assert corpus_name(str(notes)) == "my-notes"


def test_importing_again_does_nothing_until_the_text_changes(
    base: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(str(notes))
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "import_files", lambda *_: pytest.fail("imported again"))
        assert prepare(str(notes)) == first
        assert prepare("my-notes") == first
    (notes / "new.txt").write_text("a new note")
    second = prepare(str(notes))
    assert second.train_docs + second.val_docs == 101
    (data_dir("my-notes") / "shard_00000.parquet").unlink()
    assert prepare(str(notes)) == second
    assert len(Shards.open("my-notes", "train")) == second.train_docs


def test_a_prepared_name_goes_before_a_folder_of_that_name(
    base: Path, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = prepare(str(notes))
    (tmp_path / "my-notes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert prepare("my-notes") == info
    (tmp_path / "my-notes" / "a.txt").write_text("Another text. " * 500)
    other = prepare("./my-notes")
    assert other.name.startswith("my-notes-") and other.source == str((tmp_path / "my-notes").resolve())


def test_one_small_file_is_split(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("A sentence of a paragraph. " * 8 + "\n\n")
    with pytest.raises(UserError, match="holds 1 document"):
        prepare(str(path))
    path.write_text(("A sentence of a paragraph. " * 8 + "\n\n") * 100)
    info = prepare(str(path))
    assert info.name == "book"
    assert info.train_docs >= 10
    assert info.bytes == path.stat().st_size


def test_a_folder_of_shards_is_used_in_place(base: Path, shard_folder: Path) -> None:
    info = prepare(str(shard_folder))
    assert (info.name, info.train_docs, info.val_docs) == ("my-shards", 14, 7)
    assert info.bytes == sum(len(f"shard 0 document {n} é".encode()) for n in range(7)) * 3
    assert files_under(base) == ["data/my-shards/meta.json"]
    assert Shards.open("my-shards", "val")[3] == "shard 2 document 3 é"
    assert prepare(str(shard_folder)) == info
    (shard_folder / "shard_00001.parquet").unlink()
    with pytest.raises(UserError, match=r"lacks .*shard_00001.parquet"):
        prepare("my-shards")


def test_shards_with_huge_row_groups_are_imported(
    base: Path, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "MAX_GROUP_BYTES", 10)
    info = prepare(str(shard_folder))
    assert info.folder == data_dir("my-shards")
    assert (info.train_docs, info.val_docs) == (20, 1)


def test_a_damaged_shard_is_named(base: Path, shard_folder: Path) -> None:
    (shard_folder / "shard_00001.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read .*shard_00001.parquet"):
        prepare(str(shard_folder))
    assert files_under(base) == []


def test_one_name_stands_for_one_source(base: Path, notes: Path, tmp_path: Path) -> None:
    prepare(str(notes))
    other = tmp_path / "elsewhere" / "my notes"
    shutil.copytree(notes, other)
    second = prepare(str(other))
    assert second.name != "my-notes" and second.name.startswith("my-notes-")
    assert prepare(str(other)) == second == load_info(str(other)) == load_info(second.name)
    assert load_info(str(notes)).source == str(notes)
    with pytest.raises(UserError, match=r"already stands for .*--name"):
        prepare(str(other), name="my notes")
    assert prepare(str(other), name="Other Notes").name == "other-notes"
    for name in ("tinyworld", "climbmix", "hub"):
        with pytest.raises(UserError, match=r"built in.*--name"):
            prepare(str(notes), name=name)
    for dataset in ("tinyworld", "climbmix", "my-notes"):
        with pytest.raises(UserError, match="--name is for a dataset from a path"):
            prepare(dataset, name="x")


def test_unknown_datasets(base: Path, notes: Path, tmp_path: Path) -> None:
    prepare(str(notes))
    for dataset in ("shakespear", str(tmp_path / "nothing"), "", "../my-notes"):
        with pytest.raises(UserError, match="unknown dataset"):
            prepare(dataset)
    with pytest.raises(UserError, match="Choose tinyworld, climbmix, fineweb-edu, my-notes, or a path"):
        prepare("shakespear")
    with pytest.raises(UserError, match=r"no prepared dataset 'shakespear'.*my-notes"):
        Shards.open("shakespear", "train")
    with pytest.raises(UserError, match="0 shards"):
        prepare("climbmix", n_shards=0)


def test_an_empty_folder(base: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no text files"):
        prepare(str(tmp_path / "empty"))
    assert files_under(base) == []


def test_bad_text_leaves_nothing_behind(base: Path, notes: Path) -> None:
    (notes / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"latin.txt is not UTF-8 text at byte 3"):
        prepare(str(notes))
    assert [path.name for path in (base / "data").iterdir()] == [LOCK]


@pytest.mark.parametrize("dataset", ["notes", "tinyworld"])
def test_a_full_disk_is_seen_before_writing(
    base: Path, notes: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 100))
    with pytest.raises(UserError, match="GB free"):
        prepare(str(notes) if dataset == "notes" else dataset)
    assert files_under(base) == []


def test_the_tiny_world_is_made_once_for_the_same_settings(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_tinyworld(world_seed=3, mb=1)
    assert 1_000_000 <= info.bytes < 1_010_000
    assert json.loads((data_dir("tinyworld") / "world.json").read_text()) == {"seed": 3}
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "write_corpus", lambda *_: pytest.fail("made again"))
        assert prepare("tinyworld", world_seed=3, world_mb=1) == info
    first = Shards.open("tinyworld", "train")[0]
    assert prepare("tinyworld", world_seed=4, world_mb=1).settings["world_seed"] == 4
    assert Shards.open("tinyworld", "train")[0] != first
    assert json.loads((data_dir("tinyworld") / "world.json").read_text()) == {"seed": 4}
    with pytest.raises(UserError, match="0 MB"):
        prepare("tinyworld", world_mb=0)


def in_the_background(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What waiting threads have said; pytest's own capture loses what is written while it is read."""
    lines: list[str] = []
    monkeypatch.setattr(lock, "say", lines.append)
    return lines


def wait_for_the_word(thread: threading.Thread, said: list[str]) -> None:
    while "another process is importing text: waiting for it" not in said:
        assert thread.is_alive(), "it did not wait"
        time.sleep(0.01)


def test_of_two_that_make_the_tiny_world_one_waits_and_finds_it_done(
    base: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    found: list[object] = []
    with one_at_a_time():
        other = in_the_background(lambda: found.append(make_tinyworld(world_seed=3, mb=1)))
        wait_for_the_word(other, said)
        assert files_under(base) == []
        with monkeypatch.context() as patch:
            patch.setattr(corpora, "one_at_a_time", nullcontext)
            info = make_tinyworld(world_seed=3, mb=1)
        monkeypatch.setattr(corpora, "write_corpus", lambda *_: pytest.fail("made again"))
    other.join(60)
    assert found == [info]


def test_of_two_that_use_a_folder_in_place_one_waits_and_finds_it_done(
    base: Path, shard_folder: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    found: list[object] = []
    with one_at_a_time():
        other = in_the_background(lambda: found.append(prepare(str(shard_folder))))
        wait_for_the_word(other, said)
        assert files_under(base) == []
        with monkeypatch.context() as patch:
            patch.setattr(inplace, "one_at_a_time", nullcontext)
            info = prepare(str(shard_folder))
        monkeypatch.setattr(inplace, "scan", lambda _: pytest.fail("read again"))
    other.join(60)
    assert found == [info]


def test_what_is_ready_is_not_waited_for(base: Path, shard_folder: Path) -> None:
    ready = [make_tinyworld(mb=1), prepare(str(shard_folder))]
    with one_at_a_time():
        assert [make_tinyworld(mb=1), prepare(str(shard_folder))] == ready


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path, shard_folder: Path) -> Path:
    root = tmp_path / "mirror"
    shutil.copytree(shard_folder, root / "karpathy/climbmix-400b-shuffle")
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        file = root / "someone/set" / "main" / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"question": ["?"]}), file)
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(root))
    return root


@pytest.mark.usefixtures("offline")
def test_the_mirror_comes_first(mirror: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [file.name for file in repo_parquets("someone/set", "main/train")] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert len(repo_parquets("someone/set")) == 3
    info = prepare("climbmix", n_shards=1)
    assert [shard.file for shard in info.shards] == ["shard_00000.parquet", "shard_00002.parquet"]
    assert "mirror" not in capsys.readouterr().out
    assert prepare("climbmix").train_docs == 14
    assert "the mirror has 2 training shards, not 8" in capsys.readouterr().out


def test_what_no_mirror_has(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="local/mine is not under NANOCHAT_HUB_DIR"):
        repo_parquets("local/mine")
    monkeypatch.setattr(hub, "remote_files", lambda repo: {"main/train.parquet": 1})
    with pytest.raises(UserError, match="no parquet files under 'main/extra'"):
        repo_parquets("someone/set", "main/extra")
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(mirror / "nothing"))
    with pytest.raises(UserError, match="NANOCHAT_HUB_DIR"):
        repo_parquets("someone/set")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("silent", [True, False])
def test_without_a_network_it_says_so_soon(base: Path, silent_server: str, silent: bool) -> None:
    code = """
from nanochat.corpus import hub, retrying
hub.TIMEOUT, retrying.FIRST_PAUSE = 0.1, 0.01
from nanochat.commands.dataset import main
main()
"""
    env = {**os.environ, "HF_ENDPOINT": silent_server if silent else "http://127.0.0.1:9", "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", code, "-n", "2"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout.count("trying again") == hub.LISTING_RETRIES
    assert done.stderr.startswith("error: cannot get karpathy/climbmix-400b-shuffle")
    assert done.stderr.count("\n") == 1
    assert "NANOCHAT_HUB_DIR" in done.stderr
    assert files_under(base) == []


@pytest.mark.parametrize("arguments", [["--frobnicate"], ["-n", "x"], ["import"], ["import", "a", "--seed", "x"]])
def test_a_bad_flag_ends_with_2(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["dataset", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2


@pytest.mark.parametrize(("arguments", "config"), [([], command.Config), (["import"], command.Import)])
def test_help_says_what_each_flag_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], config: type
) -> None:
    monkeypatch.setattr(sys, "argv", ["dataset", *arguments, "--help"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert not stopped.value.code
    printed = " ".join(line.strip("│ ") for line in capsys.readouterr().out.splitlines())
    for field in fields(config):
        flag = {"n": "--num-files", "src": " STR "}.get(field.name, f"--{field.name.replace('_', '-')}")
        said = printed.rsplit(flag, 1)[1].split("(default")[0].split()
        assert len(said) > 4 or "Seed" in said, (flag, said)
    if config is command.Config:
        assert "Training shards to download (about 250 MB of text each)" in printed
        assert "Text to write about the tiny world, in MB" in printed


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
def test_real_shards_and_sets(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = prepare(str(SHARED / "local/debian-english"))
    assert (info.train_docs, info.val_docs, info.bytes) == (26_000, 4_096, 128_102_724)
    val = Shards.open("debian-english", "val")
    assert len(val.get_many([0, 4095, 1024])) == 3
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(SHARED))
    assert [file.name for file in repo_parquets("openai/gsm8k", "main/test")] == ["test-00000-of-00001.parquet"]


def test_two_processes_import_folders_of_one_name(base: Path, tmp_path: Path) -> None:
    folders = [tmp_path / place / "Мои" for place in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text(f"A text of {folder.parent.name}. " * 500)
    run = [sys.executable, "-m", "nanochat.dataset", "--dataset"]
    both = [subprocess.Popen([*run, str(folder)], stdout=subprocess.DEVNULL) for folder in folders]
    assert [process.wait(60) for process in both] == [0, 0]
    names = [load_info(str(folder)).name for folder in folders]
    assert len(set(names)) == 2
    for name, place in zip(names, "ab", strict=True):
        assert f"A text of {place}." in next(iter(Shards.open(name, "train")))
