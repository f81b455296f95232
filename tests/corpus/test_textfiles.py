from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.corpus import decoding, textfiles
from nanochat.corpus.textfiles import documents, text_files

pytestmark = pytest.mark.usefixtures("base")  # errors compare paths with it
checked = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@checked
@given(
    st.lists(st.sampled_from(["word", " ", "\n", "\n\n", "é🎉", "\r\n", "x" * 40]), max_size=60).map("".join),
    st.integers(10, 60),
    st.integers(1, 9),
)
def test_cutting_loses_nothing(tmp_path: Path, text: str, limit: int, block: int) -> None:
    path = write(tmp_path / "a.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "BLOCK", block)
        found = list(documents(path, limit))
    assert all(0 < len(piece) <= limit for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())


def test_a_short_file_is_one_document_and_a_long_one_is_cut_at_paragraphs(tmp_path: Path) -> None:
    paragraph = "some words " * 20 + "\n\n"
    path = write(tmp_path / "a.md", "\ufeff" + (paragraph * 30).replace("\n", "\r\n"))
    assert list(documents(path)) == [paragraph * 30]
    pieces = list(documents(path, 1000))
    assert "".join(pieces) == paragraph * 30
    assert all(piece.endswith("words \n\n") for piece in pieces)


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_lines_of_json(tmp_path: Path, suffix: str, pack: type[bytes]) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [{"text": "one\ntwo é"}, {"messages": chat}, {"text": "  "}, {"text": "a\ud83d"}]
    lines = "\n\n".join(json.dumps(row) for row in rows)
    path = write(tmp_path / f"a.jsonl{suffix}", pack(lines.encode()))
    assert list(documents(path)) == ["one\ntwo é", "User: Hi\n\nAssistant: Hello", "a?"]


def test_zstd(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(b"packed text")
    assert list(documents(path)) == ["packed text"]


def test_parquet_of_texts_or_conversations(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "text": ["a", "b"]}), tmp_path / "a.parquet")
    assert list(documents(tmp_path / "a.parquet")) == ["a", "b"]
    pq.write_table(pa.table({"messages": [[{"role": "user", "content": "Hi"}]]}), tmp_path / "b.parquet")
    assert list(documents(tmp_path / "b.parquet")) == ["User: Hi"]


@pytest.mark.parametrize("offset", [0, 5, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("name", ["latin.txt", "latin.jsonl"])
def test_text_that_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, name: str) -> None:
    monkeypatch.setattr(decoding, "BLOCK", 4096)
    line = b'{"text": "x"}\n'
    good = (line * 1000)[:offset] if name.endswith("txt") else line * (offset // len(line))
    path = write(tmp_path / name, good + b"\xe9t\xe9")
    with pytest.raises(UserError, match=rf"{name} is not UTF-8 text at byte {len(good)}\b"):
        list(documents(path))


def test_a_character_cut_off_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at byte 2"):
        list(documents(write(tmp_path / "a.txt", b"ab\xf0\x9f\x8e")))


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": ', "line 2 of .*a.jsonl is not JSON"),
        ("a.jsonl", '{"text": "x"}\n\n{"title": "x"}', r"line 3 of .*a.jsonl has neither text nor messages"),
        ("a.jsonl", '["x"]', "line 1 of .*a.jsonl has neither"),
        ("a.jsonl", '{"text": 3}', "line 1 of .*a.jsonl is not a string"),
        ("a.jsonl", '{"messages": [{"role": "assistant", "content": "x"}]}', "line 1 .*expected user"),
        ("a.txt.gz", "no gzip", "cannot read .*a.txt.gz"),
        ("a.parquet", "no parquet", "cannot read .*a.parquet"),
        ("a.parquet", "", "cannot read .*a.parquet"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, data: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        list(documents(write(tmp_path / name, data)))


def test_parquet_without_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"title": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column text.*columns are title"):
        list(documents(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"row 2 of .*b.parquet has null as its text"):
        list(documents(tmp_path / "b.parquet"))


def test_which_files_of_a_folder(tmp_path: Path) -> None:
    assert textfiles._kind(Path("chats.jsonl.txt")) == ".jsonl"  # as Notepad saves it
    names = ["b.txt", "a/c.JSONL", "a/d.md.gz", "e.parquet", "picture.png", ".hidden/x.txt", ".x.txt", "f.gz"]
    for name in names:
        write(tmp_path / name, "x")
    found = [path.relative_to(tmp_path).as_posix() for path in text_files(tmp_path)]
    assert found == ["a/c.JSONL", "a/d.md.gz", "b.txt", "e.parquet"]


def test_no_text_files(tmp_path: Path) -> None:
    write(tmp_path / "picture.png", "x")
    with pytest.raises(UserError, match="has no text files"):
        text_files(tmp_path)
    with pytest.raises(UserError, match="cannot read text from"):
        text_files(tmp_path / "picture.png")
    with pytest.raises(UserError, match="no file or folder"):
        text_files(tmp_path / "nothing")
