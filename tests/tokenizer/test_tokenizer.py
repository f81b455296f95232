from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.tokenizer import (
    SPECIAL_TOKENS,
    SPLIT_PATTERN,
    StreamDecoder,
    Tokenizer,
    encoding,
    split_pattern,
    train,
    train_bpe,
)
from nanochat.tokenizer.hf_format import tokenizer_json, two_parts
from nanochat.tokenizer.native import bpe
from nanochat.tokenizer.samples import SAMPLES

SHARED = Path(__file__).parents[2] / "../shared/data/hub/local/debian-english"
checked = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
pieces = st.sampled_from(
    [
        *"aAzZéßſ019 \t\n\r.,'!_-<|>",
        "\r\n",
        "   ",
        "'ll",
        "'RE",
        "the",
        "🎉",
        "👍🏽",
        "中",
        "٣",
        "\u00a0",
        "\u2028",
        *SPECIAL_TOKENS,
    ]
)
anything = st.one_of(st.text(), st.lists(pieces, max_size=40).map("".join))


@checked
@given(anything)
def test_any_text_comes_back(any_tokenizer: Tokenizer, text: str) -> None:
    ids = any_tokenizer.encode(text)
    assert any_tokenizer.decode(ids) == text
    assert all(token < any_tokenizer.bos for token in ids), "text became a control token"
    assert sum(any_tokenizer.token_bytes[token] for token in ids) == len(text.encode())
    assert any_tokenizer.encode_batch([text, "x", text]) == [ids, any_tokenizer.encode("x"), ids]


@checked
@given(st.lists(st.integers(0, 708), max_size=60), st.data())
@example([0xF0, 0x9F, 0x41, 0xE4, 0xB8, 704, 0xAD], None)
def test_streamed_pieces_are_the_whole_decoded_text(
    tokenizer: Tokenizer, ids: list[int], data: st.DataObject | None
) -> None:
    decoder = StreamDecoder(tokenizer)
    streamed = "".join(decoder.feed(token) for token in ids) + decoder.finish()
    assert streamed == tokenizer.decode(ids)
    cut = data.draw(st.integers(0, len(ids))) if data else 2
    assert decoder.feed(ids[:cut]) + decoder.feed(ids[cut:]) + decoder.finish() == streamed


def test_partial_characters_wait() -> None:
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)})
    decoder = StreamDecoder(tokenizer)
    assert [decoder.feed(byte) for byte in "a🎉".encode()] == ["a", "", "", "", "🎉"]
    assert decoder.feed(0xE4) == ""
    assert decoder.finish() == "\ufffd"


@pytest.fixture(scope="session")
def twin(any_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tokenizers.Tokenizer:
    folder = tmp_path_factory.mktemp("twin") / "tokenizer"
    any_tokenizer.save(folder)
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@checked
@given(anything)
@example("a" * 3000 + "\n" * 50 + " " * 50 + "x")
def test_tokenizer_json_gives_the_same_ids(any_tokenizer: Tokenizer, twin: tokenizers.Tokenizer, text: str) -> None:
    for name in SPECIAL_TOKENS:  # which that format does read in text
        text = text.replace(name, "")
    ids = any_tokenizer.encode(text)
    assert twin.encode(text).ids == ids
    assert twin.decode(ids, skip_special_tokens=False) == text


def test_tokenizer_json_is_what_the_library_writes(any_tokenizer: Tokenizer, twin: tokenizers.Tokenizer) -> None:
    """Read and written again it has the same bytes."""
    text = tokenizer_json(any_tokenizer.ranks, any_tokenizer.pattern, SPECIAL_TOKENS)
    assert twin.to_str(pretty=False) == text


def test_tokenizer_json_has_the_special_ids(any_tokenizer: Tokenizer, twin: tokenizers.Tokenizer) -> None:
    assert [twin.token_to_id(name) for name in SPECIAL_TOKENS] == [
        any_tokenizer.special(name) for name in SPECIAL_TOKENS
    ]
    assert twin.get_vocab_size() == any_tokenizer.vocab_size
    assert twin.encode("a<|bos|>").ids == [*any_tokenizer.encode("a"), any_tokenizer.bos]


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
def test_tokenizer_json_on_real_text(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    texts = pq.ParquetFile(SHARED / "shard_00003.parquet").read_row_group(0, columns=["text"])["text"].to_pylist()
    tokenizer = Tokenizer(train_bpe(texts[:700], 3000))
    tokenizer.save(tmp_path / "tokenizer")
    twin = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer/tokenizer.json"))
    fresh = texts[700:]
    assert [found.ids for found in twin.encode_batch(fresh)] == tokenizer.encode_batch(fresh)


def test_the_order_of_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 709
    assert [tokenizer.special(name) for name in SPECIAL_TOKENS] == list(range(700, 709))
    assert tokenizer.decode_bytes(range(256)) == bytes(range(256))
    assert tokenizer.token_bytes == [len(tokenizer.decode_bytes([token])) for token in range(700)] + [0] * 9
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.bos]) == "a<|bos|>"


def test_merges_are_learnt_most_frequent_first() -> None:
    ranks = train_bpe(["abab abab cd"], 258)
    assert [token for token, rank in ranks.items() if rank >= 256] == [b"ab", b"abab"]


def test_training_stops_where_the_text_ends() -> None:
    assert len(train_bpe(["aaaa bb"], 5000)) < 270
    assert len(train_bpe(["a b c"], 5000)) == len(train_bpe(["a b c"], 2**70)) == 256 + len([" b", " c"])


BAD_TEXTS: dict[str, tuple[Any, int, str]] = {
    "a vocabulary below the bytes": (["text"], 255, "256 bytes"),
    "one string": ("text", 300, "one string"),
    "no document": ([], 300, "no text"),
    "an iterator without documents": (iter(()), 300, "no text"),
    "only empty documents": (["", ""], 300, "no text"),
    "bytes": (["a", b"b"], 300, "document 1 is bytes"),
    "nothing": (["a", "b", None], 300, "document 2 is NoneType"),
    "half of a surrogate pair": (["a", "b\ud83d"], 300, "document 1 holds half of a surrogate pair"),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
@pytest.mark.parametrize("native", [True, False])
def test_texts_that_cannot_be_learnt_from(case: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, vocab_size, message = BAD_TEXTS[case]
    if not native:
        monkeypatch.setattr(train, "bpe", None)
    with pytest.raises(UserError, match=message):
        train_bpe(texts, vocab_size)


def test_texts_are_read_once_and_in_batches(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    monkeypatch.setattr(train, "BATCH_CHARS", 500)
    held = 0

    def counted() -> Iterator[str]:
        nonlocal held
        for text in texts:
            held += 1
            yield text

    ranks = train_bpe(counted(), 700)
    assert held == len(texts)
    monkeypatch.undo()
    assert ranks == train_bpe(texts, 700)


def test_training_can_be_interrupted(texts: list[str]) -> None:
    def interrupted() -> Iterator[str]:
        yield from texts
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_bpe(interrupted(), 700)


def test_the_native_tokenizer_was_built() -> None:
    """Where there is a compiler; else a broken build would hide behind the fallback."""
    assert bpe is not None or shutil.which("c++") is None


def test_without_it_the_same_things_work(
    texts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    native = Tokenizer(train_bpe(texts, 700))
    monkeypatch.setattr(train, "bpe", None)
    monkeypatch.setattr(encoding, "bpe", None)
    ranks = train_bpe(texts, 700)
    assert capsys.readouterr().err.count("training through the tokenizers package") == 1
    assert len(ranks) == 700 and len(ranks.keys() & native.ranks.keys()) > 600  # equals come in another order
    slow = Tokenizer(native.ranks)
    assert type(slow._encoder) is encoding.TiktokenEncoder
    assert slow.encode_batch(texts) == native.encode_batch(texts) == [slow.encode(text) for text in texts]
    slow.save(tmp_path / "slow")
    assert Tokenizer.load(tmp_path / "slow").hash == native.hash


def test_an_installation_without_it_says_so() -> None:
    program = """
import sys
sys.modules["nanochat.tokenizer._bpe"] = None
from nanochat.tokenizer import Tokenizer, train_bpe
print(len(train_bpe(["a b c " * 9], 260)), Tokenizer({bytes([byte]): byte for byte in range(256)}).encode("a!"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "259 [97, 33]\n"
    assert done.stderr.count("\n") == 1 and "was not built" in done.stderr and "compiler" in done.stderr


def test_any_pattern_can_be_encoded_with(texts: list[str]) -> None:
    tokenizer = Tokenizer(train_bpe(texts, 500, r"\S+|\s"), r"\S+|\s")
    assert tokenizer.decode(tokenizer.encode(texts[0])) == texts[0]
    with pytest.raises(UserError, match="regular expression"):
        train_bpe(texts, 500, "(")


def test_arrays_are_the_ids(tokenizer: Tokenizer, texts: list[str]) -> None:
    arrays = tokenizer.encode_arrays(texts, threads=3)
    assert [ids.tolist() for ids in arrays] == [tokenizer.encode(text) for text in texts]
    assert {str(ids.dtype) for ids in arrays} == {"uint32"}
    assert tokenizer.decode_batch(arrays) == texts
    assert tokenizer.encode_arrays([]) == []
    with pytest.raises(KeyError):
        tokenizer.decode([tokenizer.vocab_size])
    with pytest.raises(UserError, match="not one string"):
        tokenizer.encode_batch("hello")


def test_transformers_reads_tokenizer_json(tokenizer: Tokenizer, tmp_path: Path, texts: list[str]) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer.save(tmp_path / "tokenizer")
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer/tokenizer.json"))
    for text in texts[:40]:
        assert theirs.encode(text) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text


@pytest.mark.slow
def test_a_chunk_of_100_mb() -> None:
    text = "xyz" * 33_400_000
    ranks = train_bpe([text, "abc abc"], 300)
    assert {b"xyz", b"ab", b"abc", b"xyz" * 1024} <= set(ranks)
    tokenizer = Tokenizer(ranks)
    ids = tokenizer.encode(text)
    assert len(ids) < 100_000
    assert tokenizer.decode(ids) == text


def test_every_token_is_a_merge_of_two(any_tokenizer: Tokenizer) -> None:
    for token, rank in any_tokenizer.ranks.items():
        if len(token) > 1:
            pair = two_parts(token, any_tokenizer.ranks)
            assert pair is not None
            assert pair[0] + pair[1] == token
            assert max(any_tokenizer.ranks[part] for part in pair) < rank


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_digits_in_a_chunk(digits: int) -> None:
    ranks = train_bpe(["2024 555555 " * 50], 300, split_pattern(digits))
    assert max(len(token) for token in ranks if token.strip().isdigit()) == digits
    assert split_pattern(2) == SPLIT_PATTERN
    with pytest.raises(UserError):
        split_pattern(4)


@pytest.mark.parametrize("char", [" ", "\n", "a", "7", "!", "\u3000"])
def test_very_long_runs(tokenizer: Tokenizer, char: str) -> None:
    text = "x" + char * 600_000 + "x"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch(["a", text]) == [tokenizer.encode("a"), ids]


def test_half_of_a_surrogate_pair_is_text_too(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud83db")) == "a\ufffdb"


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for _ in range(2):  # also over one that is there
        tokenizer.save(tmp_path / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert (loaded.hash, loaded.pattern, loaded.ranks) == (tokenizer.hash, tokenizer.pattern, tokenizer.ranks)
    assert json.loads((tmp_path / "tokenizer/token_bytes.json").read_text()) == tokenizer.token_bytes
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer"]
    assert Tokenizer(tokenizer.ranks, split_pattern(1)).hash != tokenizer.hash


@pytest.mark.parametrize("name", ["meta.json", "ranks.tiktoken", "token_bytes.json", "tokenizer.json"])
def test_a_folder_that_is_not_whole(tokenizer: Tokenizer, tmp_path: Path, name: str) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    file = tmp_path / "tokenizer" / name
    content = file.read_bytes()
    for damage in (content[: len(content) // 2], content.replace(b"1", b"2", 1), b"\xff\xfe"):
        file.write_bytes(damage)
        with pytest.raises(UserError, match=name):
            Tokenizer.load(tmp_path / "tokenizer")
    file.unlink()
    with pytest.raises(UserError, match=f"lacks.*{name}"):
        Tokenizer.load(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="no tokenizer"):
        Tokenizer.load(tmp_path / "nothing")


def test_other_peoples_files_are_not_replaced(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.txt").write_text("keep")
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, "."):
        with pytest.raises(UserError, match="other files"):
            tokenizer.save(folder)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save("tokenizer")
    (tmp_path / "tokenizer/meta.json").unlink()  # a damaged one may be written again
    tokenizer.save("tokenizer")
    assert Tokenizer.load("tokenizer").hash == tokenizer.hash


def test_a_save_that_fails_leaves_the_old_one(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.save(tmp_path / "tokenizer")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left"):
        Tokenizer(tokenizer.ranks, split_pattern(1)).save(tmp_path / "tokenizer")
    assert Tokenizer.load(tmp_path / "tokenizer").hash == tokenizer.hash
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer"]


def test_ranks_must_be_a_vocabulary() -> None:
    with pytest.raises(UserError, match="256 bytes"):
        Tokenizer({b"a": 0, b"b": 1})
    with pytest.raises(UserError, match="gaps"):
        Tokenizer({bytes([byte]): byte + 1 for byte in range(256)})


def test_samples_are_utf8_of_several_kinds(tokenizer: Tokenizer) -> None:
    assert len(SAMPLES) >= 8
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in SAMPLES.values())
