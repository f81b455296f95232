"""The native splitter cuts where the pattern cuts, and encoding cuts where training did."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
import regex
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nanochat.tokenizer import Tokenizer, split_pattern
from nanochat.tokenizer.native import bpe, native_digits
from nanochat.tokenizer.samples import SAMPLES

CSRC = Path(__file__).parents[2] / "csrc"
SHARED = Path(__file__).parents[2] / "../shared/data/hub/local/debian-english"
pytestmark = pytest.mark.skipif(bpe is None, reason="the native tokenizer was not built")
checked = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
awkward = st.lists(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from([*"  \t\r\n\n'_.,a1éſ½\u00a0\u2028\u3000🎉"])),
    max_size=60,
).map("".join)


def chunks(text: str, digits: int) -> list[str]:
    data, ends = text.encode(), bpe.split(text, digits)
    return [data[begin:end].decode() for begin, end in zip([0, *ends], ends, strict=False)]


CHARACTERS = [*range(0xD800), *range(0xE000, 0x110000)]
# A character goes into each {}: alone, between letters, digits, spaces and symbols, doubled, after an apostrophe.
CONTEXTS = [
    "{}",
    "a{}b",
    "1{}2",
    " {}x",
    "x {} y",
    ".{}.",
    "\n{}\n",
    "'{}s",
    "{}{}",
    "{} {}",
    "  {}",
    "{}\r\n",
    "'{}ll",
]


ONE_OF_ALL = [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("digits", [1, 2, 3])
def test_many_characters_in_context(unicode_differences: set[str], context: str, digits: int) -> None:
    points = [*range(0x3000), *random.Random(0).sample(CHARACTERS, 20_000)]
    assert not split_otherwise(points, context, digits, unicode_differences)


@pytest.mark.parametrize("digits", ONE_OF_ALL)
def test_every_character(unicode_differences: set[str], digits: int) -> None:
    assert not split_otherwise(CHARACTERS, "{}{}", digits, unicode_differences)


@pytest.mark.slow
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_character_in_context(unicode_differences: set[str], context: str) -> None:
    assert not split_otherwise(CHARACTERS, context, 2, unicode_differences)


def split_otherwise(points: Iterable[int], context: str, digits: int, but: set[str]) -> list[str]:
    """Texts that are not split as the pattern says. but: characters that Unicode's versions see differently."""
    pattern = regex.compile(split_pattern(digits))
    texts = ((chr(point), context.replace("{}", chr(point))) for point in points)
    return [text for char, text in texts if char not in but and chunks(text, digits) != pattern.findall(text)]


@checked
@given(text=awkward, digits=st.integers(1, 3))
@example(text="  \n \n  x", digits=2)
@example(text=" " * 5000 + "\n" + " " * 5000 + "'ſx 'S'LL'vE1234", digits=2)
@example(text="\r\n\r\n \t\n.\n\n\n!", digits=3)
def test_any_text(unicode_differences: set[str], text: str, digits: int) -> None:
    text = "".join(char for char in text if char not in unicode_differences)
    assert chunks(text, digits) == regex.findall(split_pattern(digits), text)


def test_the_tables_are_those_of_the_encoder(unicode_ranges: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    unicode_ranges.main()
    asked = capsys.readouterr().out.splitlines()[1:]
    assert asked == (CSRC / "unicode_ranges.inc").read_text().splitlines()[1:], "run csrc/unicode_ranges.py again"
    assert bpe.UNICODE_VERSION == "16.0"


def test_case_and_number_patterns_are_native() -> None:
    assert [native_digits(split_pattern(digits)) for digits in (1, 2, 3)] == [1, 2, 3]
    assert native_digits(r"\S+") is None


def assert_encoding_cuts_where_training_cut(texts: list[str], digits: int) -> None:
    """With one token for each counted chunk, the native encoder and tiktoken both give the counted chunks back."""
    import tiktoken

    trainer = bpe.Trainer(digits, 2)
    trainer.add(texts)
    trained = Counter(dict(trainer.counts()))
    tokens = [bytes([value]) for value in range(256)] + [chunk for chunk in trained if len(chunk) > 1]
    native = bpe.Encoder(tokens, digits).encode_arrays(texts, 2)
    assert Counter(tokens[id] for ids in native for id in ids.tolist()) == trained
    ranks = {token: rank for rank, token in enumerate(tokens)}
    peer = tiktoken.Encoding("chunks", pat_str=split_pattern(digits), mergeable_ranks=ranks, special_tokens={})
    assert Counter(tokens[id] for ids in peer.encode_ordinary_batch(texts) for id in ids) == trained


@pytest.mark.parametrize("digits", ONE_OF_ALL)
def test_encoding_cuts_where_training_cut(digits: int) -> None:
    """For every character there is (issue #291 of upstream)."""
    every = [chr(point) for point in [*range(0xD800), *range(0xE000, 0x110000)]]
    random.Random(0).shuffle(every)
    made = ["".join(every[at : at + 997]) for at in range(0, len(every), 997)]
    assert_encoding_cuts_where_training_cut([*SAMPLES.values(), *made], digits)


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
def test_encoding_real_text_cuts_where_training_cut() -> None:
    import pyarrow.parquet as pq

    texts = pq.ParquetFile(SHARED / "shard_00003.parquet").read_row_group(0, columns=["text"])["text"].to_pylist()
    assert_encoding_cuts_where_training_cut(texts, 2)


@pytest.mark.parametrize("seed", range(8))
def test_ranks_that_no_training_made_are_merged_as_tiktoken_does(seed: int) -> None:
    """Tokens of any bytes in any order, many of them no merge of two others."""
    import tiktoken

    rng = random.Random(seed)
    alphabet = rng.choice(["ab", "abc ", "aé中 ", " .x\n"])
    texts = ["".join(rng.choices(alphabet, k=rng.randint(1, 200))) for _ in range(60)]
    cuts = (rng.choice(texts).encode()[at : at + rng.randint(2, 150)] for at in rng.choices(range(100), k=400))
    made = list({cut for cut in cuts if len(cut) > 1})
    tokens = [bytes([value]) for value in range(256)]
    rng.shuffle(tokens)
    tokens += made
    peer = tiktoken.Encoding(
        "odd",
        pat_str=split_pattern(2),
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={},
    )
    encoder = bpe.Encoder(tokens, 2)
    assert [encoder.encode(text) for text in texts] == peer.encode_ordinary_batch(texts)


@pytest.fixture(scope="session")
def tiktoken_twin(any_tokenizer: Tokenizer) -> object:
    import tiktoken

    return tiktoken.Encoding(
        "twin", pat_str=any_tokenizer.pattern, mergeable_ranks=any_tokenizer.ranks, special_tokens={}
    )


@checked
@given(text=awkward)
@example(text="a" * 300 + "ab" * 200 + " " * 300 + "🎉" * 100)
def test_ids_are_those_of_tiktoken(any_tokenizer: Tokenizer, tiktoken_twin, text: str) -> None:  # type: ignore[no-untyped-def]  # tiktoken is imported late
    assert any_tokenizer.encode(text) == tiktoken_twin.encode_ordinary(text)


def test_ids_of_every_character_are_those_of_tiktoken(any_tokenizer: Tokenizer, tiktoken_twin) -> None:  # type: ignore[no-untyped-def]  # as above
    every = [chr(point) for point in [*range(0xD800), *range(0xE000, 0x110000)]]
    random.Random(1).shuffle(every)
    texts = ["".join(every[at : at + 1009]) for at in range(0, len(every), 1009)]
    assert any_tokenizer.encode_batch(texts) == tiktoken_twin.encode_ordinary_batch(texts)


def test_threads_and_pieces_change_nothing() -> None:
    """A document of megabytes is cut into pieces for several threads."""
    rng = random.Random(2)
    words = " ".join(SAMPLES.values()).split(" ")
    long = " ".join(rng.choices(words, k=600_000))
    assert len(long) > 3_000_000
    counts = []
    for threads in (1, 2, 5):
        counter = bpe.Trainer(2, threads)
        counter.add([long, "x" * 2_500_000, "", long[:1000]])
        counts.append(dict(counter.counts()))
    assert counts[0] == counts[1] == counts[2]
    assert counts[0][b"x" * 2_500_000] == 1
    del counts[0][b"x" * 2_500_000]
    assert counts[0] == Counter(chunk.encode() for text in (long, long[:1000]) for chunk in chunks(text, 2))


def test_what_the_module_refuses() -> None:
    for digits in (0, -5, 4):
        with pytest.raises(ValueError, match="digits"):
            bpe.split("12345", digits)
        with pytest.raises(ValueError, match="digits"):
            bpe.Encoder([bytes([value]) for value in range(256)], digits)
    with pytest.raises(TypeError, match="document 1 is int"):
        bpe.Trainer(2, 2).add(["a", 1])  # type: ignore[list-item]  # on purpose
    with pytest.raises(ValueError, match="same bytes"):
        bpe.Encoder([*(bytes([value]) for value in range(256)), b"ab", b"ab"], 2)


def test_threads_of_python_may_share_a_trainer() -> None:
    texts = [f"{'word ' * 200}{number} é" for number in range(2000)]
    expected = bpe.Trainer(2, 1)
    expected.add(texts * 4)
    trainer = bpe.Trainer(2, 2)
    threads = [threading.Thread(target=trainer.add, args=(texts,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(trainer.counts()) == dict(expected.counts())


def test_the_list_may_be_emptied_while_its_texts_are_read() -> None:
    for _ in range(20):
        texts = [f"{'word ' * 200}{number} é" for number in range(1000)]
        trainer = bpe.Trainer(2, 2)
        thread = threading.Thread(target=trainer.add, args=(texts,))
        thread.start()
        texts.clear()
        thread.join()
        assert dict(trainer.counts()).get(b" word", 0) in (0, 199_000)  # before it began, or not seen at all
