"""Every door reads text as people have it; what it cannot read it names, with advice that works when it is followed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat.console import UserError
from nanochat.corpus import decoding
from nanochat.corpus.decoding import guess, read_text
from nanochat.corpus.tally import Tally
from nanochat.corpus.textfiles import documents, text_files
from nanochat.tasks import CustomJSON
from nanochat.tasks.recipe import read_mixture

pytestmark = pytest.mark.usefixtures("base")


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(data)
    return sink.getvalue().to_pybytes()


ENCODINGS = {
    "utf-8": "é🎉 plain\n".encode(),
    "utf-8 with a mark": "é🎉 plain\n".encode("utf-8-sig"),
    "utf-16 of PowerShell": "é🎉 plain\n".encode("utf-16"),
    "utf-16, big end first": b"\xfe\xff" + "é🎉 plain\n".encode("utf-16-be"),
    "utf-16 without a mark": "é🎉 plain\n".encode("utf-16-le"),
    "utf-16 without a mark, big end first": "é🎉 plain\n".encode("utf-16-be"),
    "utf-32": "é🎉 plain\n".encode("utf-32"),
    "utf-32, big end first": b"\0\0\xfe\xff" + "é🎉 plain\n".encode("utf-32-be"),
}
PACKINGS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
CHAT = [{"role": "user", "content": "Où?"}, {"role": "assistant", "content": "À côté 🎉"}]


def encoded(like: str, text: str) -> bytes:
    """`text` in the encoding whose sample has that name."""
    name = like.split(",")[0].split(" ")[0]
    if "mark" not in like and "big" not in like:
        return text.encode(name)
    if like == "utf-8 with a mark":
        return text.encode("utf-8-sig")
    ends = "be" if "big" in like else "le"
    mark = b"" if "without" in like else "\ufeff".encode(f"{name}-{ends}")
    return mark + text.encode(f"{name}-{ends}")


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_in_every_packing_through_every_door(tmp_path: Path, encoding: str, packing: str) -> None:
    assert encoded(encoding, "é🎉 plain\n") == ENCODINGS[encoding]
    pack = PACKINGS[packing]
    text = tmp_path / f"a.txt{packing}"
    text.write_bytes(pack(encoded(encoding, "é🎉 plain\r\ntext\n")))
    assert read_text(text) == "é🎉 plain\ntext\n" == "".join(documents(text))
    lines = json.dumps({"messages": CHAT}, ensure_ascii=False) + "\r\n"
    chats = tmp_path / f"a.jsonl{packing}"
    chats.write_bytes(pack(encoded(encoding, lines * 3)))
    assert list(documents(chats)) == ["User: Où?\n\nAssistant: À côté 🎉"] * 3
    assert [c.messages[1].text for c in CustomJSON(chats)] == ["À côté 🎉"] * 3
    mixture = tmp_path / f"m.toml{packing}"
    mixture.write_bytes(pack(encoded(encoding, f"# é\n[[set]]\nfile = 'a.jsonl{packing}'\n")))
    assert len(read_mixture(mixture, "sft")) == 3


@pytest.mark.parametrize("size", [1, 2, 3, 5, 4096])
def test_blocks_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(decoding, "BLOCK", size)
    for number, encoding in enumerate(ENCODINGS):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(encoded(encoding, '{"text": "é🎉"}\n{"text": "b"}\n'))
        assert list(documents(path)) == ["é🎉", "b"]


@pytest.mark.parametrize("packing", [p for p in PACKINGS if p])
def test_packed_piece_by_piece_and_under_another_name(tmp_path: Path, packing: str) -> None:
    """pigz, pzstd and `cat a.gz b.gz` write several members; and a name may have lost its ending."""
    pieces = PACKINGS[packing](b"one\n") + PACKINGS[packing](b"two\n")
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(pieces)
    assert read_text(path) == "one\ntwo\n"
    renamed = path.rename(tmp_path / "a.txt")
    assert list(documents(renamed)) == ["one\ntwo\n"]


def test_marks_in_the_middle_of_joined_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "a"}\n'.encode("utf-8-sig") * 3)
    assert list(documents(path)) == ["a", "a", "a"]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_a_list_of_conversations_as_one_value(tmp_path: Path, indent: int | None, name: str) -> None:
    path = tmp_path / name
    for rows in ([{"messages": CHAT}] * 2, [CHAT, CHAT]):
        data = json.dumps(rows, indent=indent).encode()
        path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        assert len(CustomJSON(path)) == 2
        assert len(list(documents(path))) == 2
    assert text_files(path) == [path]


def test_a_folder_does_not_take_json_for_text(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "a.txt").write_text("x")
    assert text_files(tmp_path) == [tmp_path / "a.txt"]


def test_parquet_of_conversations(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "python", "arguments": '{"code": "6*7"}'}}
    tool: list[dict[str, Any]] = [
        {"role": "user", "content": "6*7?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c"},
        {"role": "assistant", "content": "42."},
    ]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"messages": [CHAT, tool]}), path)
    assert [len(c.messages) for c in CustomJSON(path)] == [2, 2]
    assert len(list(documents(path))) == 2
    path.rename(tmp_path / "a.jsonl")  # what it is shows in its first bytes
    assert len(CustomJSON(tmp_path / "a.jsonl")) == 2 == len(list(documents(tmp_path / "a.jsonl")))


def test_messages_as_json_in_a_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"messages": [json.dumps(CHAT)]}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": json.dumps(CHAT)}) + "\n")
    for path in (tmp_path / "a.parquet", tmp_path / "a.jsonl"):
        assert [message.text for message in CustomJSON(path)[0].messages] == ["Où?", "À côté 🎉"]
        assert list(documents(path)) == ["User: Où?\n\nAssistant: À côté 🎉"]


@pytest.mark.parametrize(
    "text", ["これは日本語の テキストです。\n", "这是 中文。\n", "안녕하세요. 한국어\n", "Привет, мир\n"]
)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_text_of_any_alphabet_without_a_mark(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((text * 5).encode(encoding))
    assert read_text(path) == text * 5


def test_lines_of_an_old_mac(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\r{"text": "b"}\r')
    assert list(documents(path)) == ["a", "b"]


@pytest.mark.skipif(not shutil.which("iconv"), reason="no iconv")
@pytest.mark.parametrize("name", [b"-c.txt", b"caf\xe9.txt", b"a 'b'$c.txt"])
def test_advice_for_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))
    path.write_bytes("Ça va très bien, merci.\n".encode("cp1252"))
    with pytest.raises(UserError) as error:
        list(documents(path))
    followed(error.value)
    assert list(documents(path)) == ["Ça va très bien, merci.\n"]


LEGACY_TEXTS = {
    ("cp1252", "“Smart quotes” — he said, it’s a dog’s life…\n"),
    ("latin-1", "Müller kauft für fünf Euro Brötchen. Das ist schön, weil er Hunger hat.\n"),
    ("latin-1", "Le café est fermé à midi, où êtes-vous ? Ça va très bien, merci.\n"),
    ("latin-1", "A naïve approach.\n"),
    ("cp1250", "Zażółć gęślą jaźń, proszę państwa. Dziękuję bardzo za wszystko.\n"),
    ("cp1251", "Привет, мир! Это простой текст на русском языке, чтобы проверить.\n"),
    ("koi8-r", "Привет, мир! Это простой текст на русском языке, чтобы проверить.\n"),
    ("cp1253", "Καλημέρα κόσμε, αυτό είναι ένα κείμενο.\n"),
    ("shift_jis", "これは日本語のテキストです。文字コードを判定します。\n"),
    ("euc-jp", "これは日本語のテキストです。文字コードを判定します。\n"),
    ("gb18030", "这是一个中文文本,用来检测编码是否正确。\n"),
    ("big5", "這是一個中文文本,用來檢測編碼是否正確。\n"),
    ("euc-kr", "안녕하세요. 이것은 한국어 텍스트입니다.\n"),
    ("iso8859_2", "Zażółć gęślą jaźń, proszę państwa. Dziękuję bardzo.\n"),
    ("iso8859_2", "Příliš žluťoučký kůň úpěl ďábelské ódy.\n"),
    ("cp1250", "Öt szép szűzlány őrült írót nyúz, a tűz erős.\n"),
    ("cp1250", "A reuşit să ajungă în oraş.\n"),
    ("cp1254", "Türkçe: çok güzel bir gün, ışık ve ağaç.\n"),
    ("cp1257", "Labas rytas, šiandien gražus oras, ačiū už viską.\n"),
    ("mac_roman", "“Straße”, schön und groß, weil es für fünf reicht.\n"),
    ("cp850", "Jag åkte till Malmö för att köpa ägg och öl.\n"),
    ("cp1251", "Привіт, світе! Це простий текст українською мовою.\n"),
    ("koi8_u", "Привіт, світе! Це простий текст українською мовою, щоб перевірити.\n"),
    ("iso8859_5", "Привет, мир! Это простой текст на русском языке, чтобы проверить.\n"),
    ("cp874", "สวัสดีชาวโลก นี่คือข้อความภาษาไทย\n"),
}


def followed(error: UserError) -> None:
    """Do what the error says."""
    command = error.remedy.split("bytes: " if "bytes: " in error.remedy else ": ", 1)[1]
    subprocess.run(["bash", "-c", command.removesuffix(" (and look at it)")], check=False, capture_output=True)


@pytest.mark.skipif(not shutil.which("iconv"), reason="no iconv")
@pytest.mark.parametrize(("encoding", "text"), sorted(LEGACY_TEXTS))
@pytest.mark.parametrize("name", ["my notes.txt", "a.jsonl", "a.txt.gz"])
def test_advice_about_an_old_encoding_leads_to_the_right_text(
    tmp_path: Path, encoding: str, text: str, name: str
) -> None:
    path = tmp_path / name
    whole = "Some plain lines.\n" * 20 + text * 3
    if name.endswith("jsonl"):
        whole = json.dumps({"text": text}, ensure_ascii=False) + "\n"
    path.write_bytes(gzip.compress(whole.encode(encoding)) if name.endswith("gz") else whole.encode(encoding))
    with pytest.raises(UserError, match="is not UTF-8 text at byte") as error:
        list(documents(path))
    followed(error.value)
    assert "".join(documents(path)) == (text if name.endswith("jsonl") else whole)
    assert [file.suffix for file in sorted(tmp_path.iterdir())] == [path.suffix, ".orig"]  # the first version is kept


@pytest.mark.skipif(not shutil.which("iconv"), reason="no iconv")
def test_advice_about_damaged_utf8_does_not_spoil_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "Le café est fermé à midi. " * 40
    path.write_bytes(text.encode() + b"\xff" + text.encode())
    with pytest.raises(UserError, match="UTF-8 with damage") as error:
        list(documents(path))
    followed(error.value)
    assert "".join(documents(path)) == text * 2


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7 ...", "is a PDF"),
        (b"PK\3\4\x14\0", "is a ZIP archive, as Word"),
        (b"\x89PNG\r\n\x1a\n", "is a picture"),
        (b"{\\rtf1\\ansi hello}", "is rich text"),
        (b"PAR1....", "is parquet"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a pointer of Git LFS"),
        (b"abc\0" * 2000, "is full of zero bytes"),
        (bytes(5000), "is full of zero bytes"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\x0000", "is a tar archive"),
        (gzip.compress(gzip.compress(b"text", mtime=0), mtime=0), "is packed twice"),
        (b"ID3\x04\0\0", "is music"),
        (b"\0\0\0\x18ftypmp42", "is a film"),
        ("これは".encode("iso2022_jp"), "is ISO-2022"),
        (b"x\xff\xfe\xfd\xfc" * 9, "is not UTF-8 text at byte 1"),
    ],
)
def test_what_is_no_text_is_called_what_it_is(tmp_path: Path, data: bytes, what: str) -> None:
    for name in ("a.txt", "a.jsonl"):
        path = tmp_path / name
        path.write_bytes(data)
        if not data.startswith(b"PAR1"):  # which is read as what it is
            with pytest.raises(UserError, match=re.escape(what)):
                list(documents(path))
            with pytest.raises(UserError, match=re.escape(what)):
                CustomJSON(path)
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    with pytest.raises(UserError, match=re.escape(what)):
        read_mixture(path, "sft")


def test_wide_text_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("plain".encode("utf-16")[:-1])
    with pytest.raises(UserError, match="UTF-16 text that is damaged or cut short"):
        read_text(path)


def test_what_is_neither_file_nor_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a file nor a folder"):
        text_files(Path("/dev/null"))
    with pytest.raises(UserError, match="a pipe or device"):
        CustomJSON("/dev/null")
    with pytest.raises(UserError, match="is a folder"):
        CustomJSON(tmp_path)


def test_many_bad_lines_are_not_guessed_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + b'{"text": "\xe9"}\n' * 50)
    monkeypatch.setattr(decoding, "guess", lambda data: pytest.fail("a guess takes milliseconds"))
    tally = Tally(skip_bad=True)
    assert list(documents(path, tally=tally)) == ["good"]
    assert tally.dropped == {"not UTF-8": 50}


def test_nothing_is_guessed_about_nothing() -> None:
    assert guess(b"") == ""
