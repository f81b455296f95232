"""The tokenizer of an exported file gives our ids, in a browser with its own idea of Unicode, and our text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.conversation import Conversation
from nanochat.inference.window import fit_conversation
from nanochat.model import GPT, ModelConfig
from nanochat.tokenizer import SPECIAL_TOKENS, StreamDecoder, Tokenizer, train_bpe
from nanochat.tokenizer.pattern import split_pattern
from tests.conftest import EVERY_CHARACTER
from tests.hub.html_browser import Probe

TEXT = (
    "A fox and a hen met near the old mill: \"I'll be 1,234 years old,\" IT'S SAID, they'Re    gone\n\n\t now!!\n"
    "Füchse straße \u4e16\u754c \u4e16\u754c привет мир \U0001f600\U0001f600 नमस्ते e\u0301 e\u0301  x = [1, 22];\r\n"
)
RANKS = train_bpe([TEXT] * 30, 460)
PIECES = [
    *("'", "s", "S", "\u017f", "ll", "LL", "l", "ve", "re", "'re", " ", "  ", "\t", "\n", "\r", "\r\n"),
    *("\u00a0", "\u3000", "\u2028", "\u0085", "a", "Z", "é", "e\u0301", "\u0301", "\u4e16", "7", "12", "123"),
    *("\u00bd", "\u0663", "\u2168", "\U0001d7d8", "!", "...", "_", "\U0001f600", "\u200d", "\ufe0f", "\ufeff"),
    *("\0", "<|bos|>", "</script>", "\ue000", "\U0010ffff"),
]
HOSTILE = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))


def tokenizer_of(digits: int) -> Tokenizer:
    return Tokenizer(RANKS, split_pattern(digits))


@pytest.fixture(scope="module", params=[2, 1, 3])
def tokenizer(probe: Probe, request: pytest.FixtureRequest) -> Tokenizer:
    """Loaded in the page, too."""
    made = tokenizer_of(request.param)
    model = GPT(ModelConfig(1, 8, 2, 2, made.vocab_size, 64)).init_weights(0)
    probe.load(model, made)
    return made


def same(probe: Probe, tokenizer: Tokenizer, texts: list[str]) -> None:
    for text, ids in zip(texts, probe.call("encode", texts), strict=True):
        assert ids == tokenizer.encode(text), repr(text[:200])


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=20, max_size=40))
def test_ids(probe: Probe, tokenizer: Tokenizer, texts: list[str]) -> None:
    same(probe, tokenizer, texts)


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [2], indirect=True)
def test_every_character(probe: Probe, tokenizer: Tokenizer) -> None:
    """Each beside letters, digits, blanks and signs: what it counts as decides where the text is cut."""
    for frame in ("a{}1", " {}!"):
        text = "".join(frame.replace("{}", char) for char in EVERY_CHARACTER)
        same(probe, tokenizer, [text[at : at + 300_000] for at in range(0, len(text), 300_000)])


def test_characters_on_which_unicode_versions_differ(
    probe: Probe, tokenizer: Tokenizer, unicode_differences: set[str]
) -> None:
    assert unicode_differences
    same(probe, tokenizer, [frame.replace("{}", char) for char in unicode_differences for frame in ("a{}b", "1{}1")])


def test_unpaired_surrogates(probe: Probe, tokenizer: Tokenizer) -> None:
    """A page can hold them in a text, though no message of a test can carry them there."""
    found = probe.page.evaluate(r"probe.encode(['\ud83d', 'a\ude00b', '\ud83d\ud83d\ude00', '\ude00\ud83d'])")
    assert found == [tokenizer.encode(text) for text in ("\ud83d", "a\ude00b", "\ud83d\U0001f600", "\ude00\ud83d")]


@pytest.mark.parametrize("tokenizer", [2], indirect=True)
@pytest.mark.parametrize("unit", ["a", " ", "\n", "ab1", "!", "\u4e16"])
def test_long_texts(probe: Probe, tokenizer: Tokenizer, unit: str) -> None:
    """Also of one chunk: the time does not grow with its square."""
    same(probe, tokenizer, [unit * 200_000])


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, len(RANKS) + len(SPECIAL_TOKENS) - 1), max_size=40))
def test_text_as_it_comes(probe: Probe, tokenizer: Tokenizer, ids: list[int]) -> None:
    """Any bytes: characters that are incomplete or none become U+FFFD as in Python."""
    decoder = StreamDecoder(tokenizer)
    expected = [*map(decoder.feed, ids), decoder.finish()]
    assert probe.call("streamed", ids) == expected


WORDS = st.text(st.sampled_from("abc é'1\n"), max_size=30)
PARTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "python", "python_output"]), "text": WORDS}), min_size=1
)
MESSAGES = st.tuples(
    st.lists(WORDS, max_size=1), st.lists(st.tuples(WORDS, st.one_of(WORDS, PARTS)), max_size=6), WORDS, st.booleans()
)


@settings(max_examples=150, deadline=None)
@given(told=MESSAGES, window=st.integers(1, 300), most=st.integers(1, 200))
def test_prompts(probe: Probe, tokenizer: Tokenizer, told: tuple, window: int, most: int) -> None:
    """Conversations as the engine renders and cuts them."""
    system, exchanges, question, open_answer = told
    messages = [{"role": "system", "content": text} for text in system]
    for asked, said in exchanges:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    if not (open_answer and exchanges):
        messages.append({"role": "user", "content": question})
    conversation = Conversation.from_dict({"messages": messages})
    assert probe.call("fit", messages, window, most) == fit_conversation(tokenizer, conversation, window, most)
