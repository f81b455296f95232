"""`dataset import` and --skip-bad: every row is a document or is counted under a reason, whatever the files hold."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter, namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.commands import dataset as command
from nanochat.console import UserError
from nanochat.corpus import Shards, decoding, importing, inplace, jsonrows, prepare, rows, shuffle, tally, textfiles
from nanochat.corpus.corpora import import_text
from nanochat.corpus.importing import LOCK, How
from nanochat.corpus.info import CorpusInfo, find_info
from nanochat.paths import data_dir

SKIP = How(skip_bad=True)


def everything(name: str) -> list[str]:
    return [*Shards.open(name, "train"), *Shards.open(name, "val")]


def summary(name: str) -> dict[str, Any]:
    return json.loads((data_dir(name) / importing.SUMMARY).read_text())


def lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def texts(path: Path, values: Sequence[str | None], group: int = 1000, column: str = "text") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: pa.array(values, pa.string())}), path, row_group_size=group)
    return path


def damage(path: Path, group: int) -> None:
    """Overwrite the data of one row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(0)
    start = min(offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset)
    content = bytearray(path.read_bytes())
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)


def files_under(folder: Path) -> list[str]:
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [file for file in files if file != f"data/{LOCK}"]


# --- what comes out ---


@pytest.mark.parametrize("pile", [64 << 20, 4000])
@pytest.mark.parametrize("dedup", [False, True])
def test_the_order_follows_the_seed(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pile: int, dedup: bool
) -> None:
    monkeypatch.setattr(shuffle, "PILE", pile)
    source = lines(tmp_path / "a.jsonl", [{"text": f"document {number} é"} for number in range(400)])
    orders = []
    for name, seed in (("one", 1), ("same", 1), ("two", 2)):
        import_text(str(source), name, How(seed=seed, dedup=dedup))
        orders.append(everything(name))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    for order in orders:
        assert sorted(order) == sorted(f"document {number} é" for number in range(400))
    assert sorted(path.name for path in (base / "data").iterdir()) == [LOCK, "one", "same", "two"]


@pytest.mark.parametrize("pile", [64 << 20, 3000])
def test_duplicates_go_on_request(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pile: int) -> None:
    monkeypatch.setattr(shuffle, "PILE", pile)
    rng = random.Random(0)
    rows = [f"text {number}" for number in range(200)] + ["again and again"] * 300
    rng.shuffle(rows)
    source = lines(tmp_path / "a.jsonl", [{"text": row} for row in rows])
    import_text(str(source), "all")
    assert Counter(everything("all")) == Counter(rows)
    import_text(str(source), "some", How(dedup=True))
    assert sorted(everything("some")) == sorted(set(rows))
    assert summary("some")["dropped"] == {"duplicate": 299}
    assert summary("some")["documents"] == 201


def test_nothing_but_duplicates(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffle, "PILE", 100)
    source = lines(tmp_path / "a.jsonl", [{"text": "x" * 300}] * 20 + [{"text": "y" * 300}] * 20)
    import_text(str(source), "a", How(dedup=True))
    assert sorted(everything("a")) == ["x" * 300, "y" * 300]


checked = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = {
    '{"text": "%d"}': None,
    '{"text": "the same"}': "duplicate",
    '{"text": " "}': "empty",
    '{"text": null}': "null",
    '{"text": 3}': "not strings",
    '{"title": "a"}': "without text or messages",
    '{"messages": [{"role": "assistant", "content": "x"}]}': "not a conversation",
    '{"text": ': "not JSON",
    '{"text": "\xff"}': "not UTF-8",
}


@checked
@given(st.lists(st.sampled_from(list(ROWS)), max_size=80), st.sampled_from([64 << 20, 700]), st.integers(1, 50))
def test_every_row_is_a_document_or_counted(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], pile: int, block: int
) -> None:
    folder = tmp_path_factory.mktemp("case")
    rows = [kind.replace("%d", str(number)) for number, kind in enumerate(['{"text": "%d"}', '{"text": "%d"}', *kinds])]
    (folder / "a.jsonl").write_bytes("\n".join(rows).encode("latin-1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
        patch.setattr(shuffle, "PILE", pile)
        patch.setattr(decoding, "BLOCK", block)
        info = import_text(str(folder / "a.jsonl"), "a", How(dedup=True, skip_bad=True))
        expected = Counter(reason for kind in kinds if (reason := ROWS[kind]))
        repeated = expected.pop("duplicate", 0)
        if repeated > 1:
            expected["duplicate"] = repeated - 1
        assert summary("a")["dropped"] == dict(expected)
        assert info.train_docs + info.val_docs == summary("a")["documents"] == len(rows) - expected.total()
        assert summary("a")["characters"] == sum(map(len, everything("a")))


def test_the_summary_is_said_also_when_nothing_is_left_to_do(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lines(tmp_path / "a.jsonl", [{"text": f"{n:03}"} for n in range(60)] + [{"text": ""}, {"text": "000"}])
    for _ in range(2):
        command.run_import(command.Import(str(source), name="mine", dedup=True))
        printed = capsys.readouterr().out
        assert "mine: 60 documents, 180 characters; left out: 1 duplicate, 1 empty" in printed
        assert "dataset mine: 58 documents" in printed


def test_an_import_in_another_way_is_made_anew_and_training_takes_it_as_it_is(base: Path, tmp_path: Path) -> None:
    source = lines(tmp_path / "mine.jsonl", [{"text": "same"}, {"text": "same"}, {"text": "b"}, {"text": "c"}])
    assert import_text(str(source)).train_docs == 3
    info = import_text(str(source), how=How(dedup=True))
    assert info.train_docs == 2
    assert prepare(str(source)) == info
    lines(source, [{"text": "same"}, {"text": "same"}, {"text": "b"}, {"text": "c"}, {"text": "d"}])
    assert prepare(str(source)).train_docs == 3


def test_what_a_killed_import_left_is_removed(base: Path, tmp_path: Path) -> None:
    left = data_dir("mine").with_name(".mine.piles") / ".piles-x" / "0"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    import_text(str(lines(tmp_path / "mine.jsonl", [{"text": "a"}, {"text": "b"}])))
    assert sorted(path.name for path in (base / "data").iterdir()) == [LOCK, "mine"]


def test_a_full_disk_while_reading(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffle, "PILE", 100)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shuffle.tempfile, "TemporaryDirectory", full)
    with pytest.raises(UserError, match="No space left on device"):
        import_text(str(lines(tmp_path / "a.jsonl", [{"text": "x" * 80}] * 9)))
    assert files_under(base) == []


def test_the_disk_is_asked_about_once_for_the_text_and_one_pile(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffle, "PILE", 1000)
    source = lines(tmp_path / "a.jsonl", [{"text": "x" * 90}] * 100)
    need = source.stat().st_size + 1000
    free = [int(need * 1.05) - 1]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, free.pop()))
    with pytest.raises(UserError, match="GB free"):
        import_text(str(source))
    assert files_under(base) == []
    free = [int(need * 1.05) + 1]  # and when the piles are there, nobody asks any more
    assert import_text(str(source)).train_docs == 98
    assert free == []
    assert import_text(str(source)).train_docs == 98  # nor when there is nothing to do


def test_the_summary_is_there_as_soon_as_the_corpus_is(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        renamed = rename(path, target)
        if target == data_dir("a"):
            raise KeyboardInterrupt
        return renamed

    source = lines(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}, {"text": " "}])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            import_text(str(source))
    assert summary("a") == {"documents": 2, "characters": 2, "cut": 0, "halved": 0, "dropped": {"empty": 1}}
    assert len(everything("a")) == 2


def test_halves_of_characters_are_counted(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = {"messages": [{"role": "user", "content": "\ude00"}]}
    source = lines(tmp_path / "a.jsonl", [{"text": "a\ud83d"}, {"text": "\ud83d\ude00"}, chat])
    for _ in range(2):
        import_text(str(source))
        said = "a: 3 documents, 10 characters; 2 have a ? for half a character (an unpaired surrogate); left out: "
        assert said in capsys.readouterr().out
    assert sorted(everything("a")) == ["User: ?", "a?", "😀"]


@pytest.mark.parametrize("dedup", [False, True])
def test_memory_does_not_grow_with_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dedup: bool) -> None:
    monkeypatch.setattr(shuffle, "PILE", 1 << 20)
    rng = random.Random(0)
    documents = (rng.randbytes(5000).hex() for _ in range(3000))  # 30 MB
    tracemalloc.start()
    count = sum(1 for _ in shuffle.shuffled(documents, 1, 0, tmp_path, (lambda: None) if dedup else None))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 3000
    assert peak < 6 << 20


# --- where it comes from ---


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_column_of_another_name(base: Path, tmp_path: Path, kind: str) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [{"text": "no", "story": f"yes {number}", "chat": chat} for number in range(5)]
    source = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        lines(source, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), source)
    import_text(str(source), "story", How(column="story"))
    assert sorted(everything("story")) == [f"yes {number}" for number in range(5)]
    import_text(str(source), "chat", How(column="chat"))
    assert everything("chat") == ["User: Hi\n\nAssistant: Hello"] * 5
    with pytest.raises(UserError, match=r"a\.(parquet|jsonl) has no (column )?plot"):
        import_text(str(source), "plot", How(column="plot"))


def test_a_dataset_of_the_hub(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = tmp_path / "mirror/someone/Stories"
    texts(repo / "main/train-0.parquet", [f"train {number}" for number in range(5)], column="story")
    texts(repo / "main/test-0.parquet", ["test 0"], column="story")
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(tmp_path / "mirror"))
    with pytest.raises(UserError, match=r"has no column text\. Its columns are story; .*--column.*--skip-bad"):
        import_text("someone/Stories")
    info = import_text("someone/Stories/main/train", how=How(column="story"))
    assert (info.name, info.source) == ("stories", "someone/Stories/main/train")
    assert sorted(everything("stories")) == [f"train {number}" for number in range(5)]
    assert len(everything(import_text("someone/Stories", "both", How(column="story")).name)) == 6
    with pytest.raises(UserError, match="already stands for someone/Stories/main/train"):
        import_text("someone/Stories", "stories", How(column="story"))
    with pytest.raises(UserError, match="local/nothing is not under NANOCHAT_HUB_DIR"):
        import_text("local/nothing")


def test_a_mistyped_path_is_no_dataset_of_the_hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for path in ("texts/mine", "./mine", "../mine", "/nothing/mine", "mine.txt", ""):
        with pytest.raises(UserError, match=f"no file or folder {path}"):
            import_text(path)


def test_text_is_not_written_over_itself(base: Path) -> None:
    source = lines(data_dir("mine") / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    for path in (source.parent, source):
        with pytest.raises(UserError, match="where the dataset mine would be written.*--name"):
            import_text(str(path), "mine")
    assert len(everything(import_text(str(source), "other").name)) == 2


# --- long documents ---


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_long_document_is_cut_and_that_is_said(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(textfiles, "ROW_LIMIT", 1000)
    monkeypatch.setattr(decoding, "BLOCK", 777)
    rows = ["a", "long words " * 1000, "b"]
    source = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        lines(source, [{"text": row} for row in rows])
    else:
        texts(source, rows)
    found = list(textfiles.documents(source, tally=(counts := tally.Tally())))
    assert "".join(found) == "".join(rows)
    assert max(map(len, found)) <= 1000
    assert counts.cut == 1
    import_text(str(source))
    assert sorted(everything("a")) == sorted(found)
    assert summary("a")["cut"] == 1


def test_a_line_that_does_not_fit_in_memory(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BLOCK", 64)
    monkeypatch.setattr(jsonrows, "LINE_LIMIT", 500)
    source = lines(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "x" * 600}, {"text": "b"}, {"text": "x" * 2000}])
    with pytest.raises(UserError, match="line 2 of .*a.jsonl is longer than 500 bytes.*--skip-bad"):
        import_text(str(source))
    import_text(str(source), how=SKIP)
    assert sorted(everything("a")) == ["a", "b"]
    assert summary("a")["dropped"] == {"lines too long": 2}


def test_a_footer_that_promises_too_much(tmp_path: Path) -> None:
    path = texts(tmp_path / "a.parquet", [f"text {number}" for number in range(100)])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\xc8\x01", b"\xd2\x01"))  # 100 -> 105, as Thrift writes it
    with pq.ParquetFile(path) as file:
        assert file.metadata.num_rows == 105
    counts = tally.Tally(skip_bad=True)
    assert len(list(textfiles.documents(path, tally=counts))) + sum(counts.dropped.values()) == 105
    assert set(counts.dropped) == {rows.LOST_ROWS}


def test_a_few_long_rows_are_in_memory_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{number:07}" * 130_000 for number in range(40)]})
    pq.write_table(table, path, write_batch_size=1)  # a page a row: a page is always in memory as a whole
    del table
    before, peak, count = pa.total_allocated_bytes(), 0, 0
    for _ in textfiles.documents(path):
        count += 1
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert count == 40
    assert 0 < peak < 25e6  # of 36.4 MB


# --- bad files and rows ---


def make_bad(folder: Path, kind: str) -> str:
    """A bad file in a folder with good ones; how its error begins."""
    path = folder / f"{kind}.parquet"
    if kind == "empty file":
        path.write_bytes(b"")
        return "cannot read .*empty file.parquet"
    if kind == "truncated":
        texts(path, [str(number) * 100 for number in range(300)])
        path.write_bytes(path.read_bytes()[:-50])
        return "cannot read .*truncated.parquet"
    if kind == "no rows":
        texts(path, [])
        return ".*no rows.parquet has no rows"
    if kind == "no column":
        texts(path, ["a"], column="title")
        return ".*no column.parquet has no column text.*Its columns are title"
    if kind == "null rows":
        texts(path, ["good 1", None, "good 2", None], group=3)
        return "row 2 of .*null rows.parquet has null as its text"
    if kind == "damaged group":
        texts(path, [f"good {number}" for number in range(9)], group=3)
        damage(path, 1)
        return "cannot read rows 4 to 6 of .*damaged group.parquet"
    if kind == "invalid text":
        column = pa.array([b"good 1", b"caf\xe9", b"good 2"], pa.binary())
        pq.write_table(pa.table({"text": column.view(pa.string())}), path)
        return "row 2 of .*invalid text.parquet is not UTF-8"
    assert kind == "cut gzip"
    path = folder / "cut gzip.jsonl.gz"
    data = "\n".join(json.dumps({"text": f"good {random.Random(number).random()}"}) for number in range(5000))
    path.write_bytes(gzip.compress(data.encode())[:-2000])
    return "cannot read .*cut gzip.jsonl.gz"


BAD = {
    "empty file": {"files that could not be read to their end": 1},
    "truncated": {"files that could not be read to their end": 1},
    "no rows": {"files without rows": 1},
    "no column": {"files without a column text": 1},
    "null rows": {"null": 2},
    "damaged group": {"rows that could not be read": 3},
    "invalid text": {"not UTF-8": 1},
    "cut gzip": {"files that could not be read to their end": 1},
}
KEPT = {"null rows": 2, "damaged group": 6, "invalid text": 2}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_stop_an_import_or_are_counted(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.setattr(decoding, "BLOCK", 4096)
    folder = tmp_path / "mine"
    texts(folder / "a.parquet", ["good a"])
    texts(folder / "z.parquet", ["good z"])
    problem = make_bad(folder, kind)
    with pytest.raises(UserError, match=f"^{problem}.*--skip-bad"):
        import_text(str(folder))
    assert files_under(base) == []
    import_text(str(folder), how=SKIP)
    found = everything("mine")
    assert all(text.startswith("good") for text in found)
    assert {"good a", "good z"} <= set(found)
    assert summary("mine")["dropped"] == BAD[kind]
    if kind == "cut gzip":
        assert 1000 < len(found) < 5002, "what comes before the damage is kept"
    else:
        assert len(found) == 2 + KEPT.get(kind, 0)
    printed = capsys.readouterr()
    assert kind in printed.err
    assert next(iter(BAD[kind])) in printed.out


def test_text_that_turns_bad_halfway(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"a good line\n" * 100_000 + b"\xff\xfe and more")
    import_text(str(folder), how=SKIP)
    assert summary("mine")["dropped"] == {"files that are not UTF-8 to their end": 1}
    assert sum(map(len, everything("mine"))) > 500_000
    assert "left out: the rest of" in capsys.readouterr().err


def test_many_bad_rows_are_counted_and_the_first_are_named(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lines(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}, *["nonsense"] * 500])
    import_text(str(source), how=SKIP)
    printed = capsys.readouterr()
    assert summary("a")["dropped"] == {"not JSON": 500}
    assert "left out: line 3 of" in printed.err
    assert printed.err.count("left out:") == tally.NAMED + 1
    assert "500 not JSON" in printed.out


def test_the_command_ends_with_one_line(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = texts(tmp_path / "a.parquet", ["a", None])
    monkeypatch.setattr("sys.argv", ["dataset", "import", str(source), "--name", "mine"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: row 2 of {source} has null as its text")
    assert error.count("\n") == 1


# --- shards that are used where they are ---


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    for place in range(4):
        texts(folder / f"shard_{place:05d}.parquet", [f"{place} {number}" for number in range(6)], group=2)
    return folder


def test_a_shard_with_null_rows_is_copied_without_them(
    base: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = texts(shards / "shard_00001.parquet", ["1 0", None, "1 2", "1 3", None], group=2)
    content = bad.read_bytes()
    with pytest.raises(UserError, match=f"row 2 of {bad} has null as its text.*--skip-bad"):
        prepare(str(shards))
    assert files_under(base) == []
    info = prepare(str(shards), skip_bad=True)
    assert [shard.documents for shard in info.shards] == [6, 3, 6, 6]
    assert list(Shards.open("mine", "train"))[6:9] == ["1 0", "1 2", "1 3"]
    assert [file.name for file in info.folder.iterdir() if not file.is_symlink()] == ["shard_00001.parquet"]
    assert bad.read_bytes() == content
    assert "mine: 21 documents; left out: 2 null" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(inplace, "scan", lambda _: pytest.fail("read again"))
        assert prepare(str(shards)) == prepare(str(shards), skip_bad=True) == prepare("mine") == info
    assert "2 null" in capsys.readouterr().out
    texts(bad, ["mended"] * 6)
    mended = prepare(str(shards))
    assert mended.folder == shards
    assert mended.train_docs == 18


def damaged(path: Path, kind: str) -> None:
    if kind == "no rows":
        texts(path, [])
    elif kind == "no column":
        texts(path, ["a"], column="title")
    elif kind == "all null":
        texts(path, [None, None])
    else:
        path.write_bytes(b"PAR1")


@pytest.mark.parametrize("kind", ["no rows", "no column", "all null", "damaged"])
def test_a_shard_that_cannot_be_read_is_left_out(
    base: Path, shards: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    damaged(shards / "shard_00002.parquet", kind)
    with pytest.raises(UserError, match=r"shard_00002.parquet.*--skip-bad"):
        prepare(str(shards))
    info = prepare(str(shards), skip_bad=True)
    assert [shard.file for shard in info.shards] == [f"shard_0000{place}.parquet" for place in (0, 1, 3)]
    assert everything("mine") == [f"{place} {number}" for place in (0, 1, 3) for number in range(6)]
    printed = capsys.readouterr()
    assert "shard_00002.parquet" in printed.err
    assert "mine: 18 documents; left out: " in printed.out and "nothing" not in printed.out
    damaged(shards / "shard_00003.parquet", kind)
    info = prepare(str(shards), skip_bad=True)
    assert [shard.file for shard in info.shards] == ["shard_00000.parquet", "shard_00001.parquet"]
    assert "shard_00001.parquet is for validation, since shard_00003.parquet was left out" in capsys.readouterr().err
    damaged(shards / "shard_00001.parquet", kind)
    with pytest.raises(UserError, match="has 1 shards that can be read"):
        prepare(str(shards), skip_bad=True)


def test_options_of_an_import_make_it_one(base: Path, shards: Path) -> None:
    texts(shards / "shard_00000.parquet", ["3 1", "3 2", "new"])
    assert import_text(str(shards)).folder == shards
    info = import_text(str(shards), how=How(dedup=True))
    assert info.folder == data_dir("mine")
    assert info.train_docs + info.val_docs == 19


def test_a_mirror_with_a_bad_shard(base: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "mirror/karpathy/climbmix-400b-shuffle"
    repo.parent.mkdir(parents=True)
    shards.rename(repo)
    damaged(repo / "shard_00001.parquet", "damaged")
    kept = data_dir("climbmix") / "shard_00000.parquet"
    texts(kept, ["downloaded before"])
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(tmp_path / "mirror"))
    with pytest.raises(UserError, match=r"shard_00001.parquet.*--skip-bad"):
        prepare("climbmix", 3)
    info = prepare("climbmix", 3, skip_bad=True)
    assert (info.train_docs, info.val_docs) == (12, 6)
    assert kept.exists()
    assert find_info("climbmix") == info


SHARED = Path(__file__).parents[2] / "../shared/data/hub"


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
def test_real_sets(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_HUB_DIR", str(SHARED))
    info = import_text("openai/gsm8k/main/train", how=How(column="question", dedup=True))
    assert info.train_docs + info.val_docs == 7473
    assert summary("gsm8k")["dropped"] == {}
    info = import_text("local/chat-mix/data")
    assert info.train_docs + info.val_docs == 12_849 + 676
    assert all(text.startswith("User: ") for text in Shards.open("chat-mix", "val"))
    with pytest.raises(UserError, match=r"no column text.*Its columns are task_id, prompt"):
        import_text("openai/openai_humaneval")


def test_of_two_imports_at_once_the_second_finds_the_work_done(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = lines(tmp_path / "mine.jsonl", [{"text": str(number)} for number in range(10)])
    code = "import sys; from nanochat.corpus.corpora import import_text; import_text(sys.argv[1])"
    write = importing.write_corpus

    def slow(*arguments: Any) -> CorpusInfo:
        other = subprocess.Popen([sys.executable, "-c", code, str(source)], stdout=subprocess.PIPE, text=True)
        others.append(other)
        assert other.stdout is not None
        said.append(other.stdout.readline())  # it waits for us
        return write(*arguments)

    others: list[subprocess.Popen[str]] = []
    said: list[str] = []
    monkeypatch.setattr(importing, "write_corpus", slow)
    info = import_text(str(source))
    assert said == ["another process is importing text: waiting for it\n"]
    printed, _ = others[0].communicate(timeout=60)
    assert others[0].returncode == 0
    assert printed == capsys.readouterr().out == "mine: 10 documents, 10 characters; left out: nothing\n"
    assert find_info("mine") == info
