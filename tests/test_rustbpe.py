"""The native trainer learns the merges of the rustbpe package, byte for byte and in order, and is raced against it.

python -m pytest tests/test_rustbpe.py -v -s
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
import regex
import rustbpe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.tokenizer import SPLIT_PATTERN, split_pattern, train_bpe
from nanochat.tokenizer.native import bpe
from nanochat.tokenizer.samples import SAMPLES

SHARED = Path(__file__).parents[1] / "../shared/data/hub/local/debian-english"
pytestmark = pytest.mark.skipif(bpe is None, reason="the native tokenizer was not built")


def reference(texts: list[str], vocab_size: int, pattern: str = SPLIT_PATTERN) -> list[bytes]:
    """Byte-pair encoding as one would explain it: the tokens in order."""
    chunks = Counter(match.group().encode() for text in texts for match in regex.finditer(pattern, text))
    words = [(list(chunk), count) for chunk, count in chunks.items()]
    tokens = [bytes([value]) for value in range(256)]
    while len(tokens) < vocab_size:
        pairs: Counter[tuple[int, int]] = Counter()
        for ids, count in words:
            for pair in itertools.pairwise(ids):
                pairs[pair] += count
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
        for ids, _ in words:
            at = 0
            while at < len(ids) - 1:
                if ids[at] == left and ids[at + 1] == right:
                    ids[at : at + 2] = [len(tokens)]
                at += 1
        tokens.append(tokens[left] + tokens[right])
    return tokens


def rust(texts: list[str], vocab_size: int, pattern: str = SPLIT_PATTERN) -> list[bytes]:
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size, pattern=pattern)
    ranks = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    return [bytes(token) for token, _ in ranks]


def ours(texts: list[str], vocab_size: int, pattern: str = SPLIT_PATTERN) -> list[bytes]:
    ranks = train_bpe(texts, vocab_size, pattern)
    assert list(ranks.values()) == list(range(len(ranks)))
    return list(ranks)


def words(*alphabets: str, count: int = 3000, seed: int = 0) -> list[str]:
    """Documents of made-up words, frequent ones more often, as in a language."""
    rng = random.Random(seed)
    stock = ["".join(rng.choices(alphabet, k=rng.randint(1, 9))) for alphabet in alphabets for _ in range(300)]
    weights = [1 / (1 + place) for place in range(len(stock))]
    return [" ".join(rng.choices(stock, weights, k=30)) for _ in range(count // 30)]


CODE = """def f(x: int) -> int:\n\tif x <= 0:\n        return  x+1\n    y = [i**2 for i in range(10)]\r\n\r\n  }\n"""
CASES = {
    "one document": ["abab abab cd"],
    "one repeated letter": ["aaaaaaaaaaaaaaa aaaa aaa aa a " * 3],
    "overlapping pairs": ["abababab babababa ababa aabbaabb" * 4],
    "ties": ["ab cd ef gh ij kl mn op", "ba dc fe hg", "zz yy xx"],
    "no merge at all": ["a b c d 1 2"],
    "code": [CODE * 3, CODE.upper(), Path(__file__).read_text()],
    "white space": ["  \n\n \t x \r\n\r\n   y    \n", "\u3000\u00a0 z \u2028", " " * 90],
    "contractions": ["I'll we've they're it's don't I'm he'd 'S 'LL 'Ve 'ſ 'x ' ''s"],
    "numbers": ["1 12 123 1234 12345 3.14159 ٣٤٥ ½ ²³ Ⅷ 1a2b"],
    "long chunks": ["x" * 500 + " " + "xy" * 300 + "!" * 200, "x" * 500],
    "languages": list(SAMPLES.values()),
    "made-up languages": words("etaoinshrdlu", "абвгдежз", "αβγδεζ", "的一是不了人我在有", "가나다라마바사", "אבגדה"),
    "emoji": words("🎉🐕👍🏽❤️😂🇩🇪", "ab", count=900),
    "any bytes as Latin-1": [bytes(random.Random(n).randbytes(400)).decode("latin-1") for n in range(20)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("digits", [1, 2, 3])
def test_merges_of_small_texts(name: str, digits: int) -> None:
    texts, pattern = CASES[name], split_pattern(digits)
    found = ours(texts, 600, pattern)
    assert found == reference(texts, 600, pattern)
    assert found == rust(texts, 600, pattern)


pieces = st.lists(
    st.one_of(
        st.sampled_from([*"aab \n'19.", "the ", " th", "e", "  ", "\r\n", "é", "中", "🎉", "'ll", "aaaa"]),
        st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs", "Cn"]),
    ),
    max_size=80,
).map("".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(pieces, min_size=1, max_size=5).filter(lambda texts: any(texts)), vocab_size=st.integers(256, 400)
)
def test_merges_of_any_text(unicode_differences: set[str], texts: list[str], vocab_size: int) -> None:
    texts = ["".join(char for char in text if char not in unicode_differences) for text in texts] + ["x"]
    found = ours(texts, vocab_size)
    assert found == reference(texts, vocab_size)
    assert found == rust(texts, vocab_size)


@pytest.mark.parametrize("pattern", [r"\w+|\s|.", r"\S+", r"(a|b)+|[^ab]"])
def test_other_patterns_go_through_a_regex_library(pattern: str) -> None:
    texts = CASES["overlapping pairs"] + CASES["contractions"]
    assert ours(texts, 400, pattern) == reference(texts, 400, pattern) == rust(texts, 400, pattern)


def test_ids_above_16_bits() -> None:
    texts = words("abcdefghijklmnopqrstuvwxyz", count=60_000)
    rng = random.Random(1)
    texts += [" ".join("".join(rng.choices("abcdefgh", k=12)) for _ in range(200)) for _ in range(140)]
    found = ours(texts, 100_000)
    assert len(found) > 65_536
    assert found == rust(texts, 100_000)


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
@pytest.mark.parametrize("vocab_size", [300, 8192, 32768])
def test_merges_of_real_english(vocab_size: int) -> None:
    import pyarrow.parquet as pq

    texts = pq.ParquetFile(SHARED / "shard_00003.parquet").read_row_group(0, columns=["text"])["text"].to_pylist()
    assert ours(texts, vocab_size) == rust(texts, vocab_size)


@pytest.mark.slow
def test_the_race() -> None:
    """Times nothing that could fail; run with -s to see it."""
    from benchmarks.tokenizer import load_texts, race_training, take

    made = words("etaoinshrdlucmfw", "etaoinsäöü", "абвгдежз", count=90_000)
    texts, _ = take(lambda: load_texts(SHARED, "train") if SHARED.exists() else iter(made), 8)
    race = race_training(texts, 16384, runs=1)
    print(f"\n16,384 tokens from {sum(len(text.encode()) for text in texts) / 1e6:.0f} MB, a fresh process each:")
    for trainer, row in race.items():
        times = row["seconds"] / race["ours"]["seconds"]
        print(f"  {trainer:<12} {row['seconds']:6.3f} s  {row['peak_mb']:6.0f} MB peak  {times:5.1f} x ours")
    assert race["ours"]["tokens"] == race["rustbpe"]["tokens"]
