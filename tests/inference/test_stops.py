"""Stop strings: where a text ends, and what may be shown before that is known."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.conversation import Part
from nanochat.inference import Request, Token
from nanochat.inference.stops import StopStrings
from nanochat.tokenizer import Tokenizer
from tests.inference.fakes import parrot

TEXT = st.text("abcé", max_size=30)
STRINGS = st.lists(st.text("abcé", min_size=1, max_size=5), min_size=1, max_size=3)


def first_end(text: str, strings: list[str]) -> int | None:
    """By definition: the shortest beginning of `text` that ends with a stop string."""
    return next((end for end in range(len(text) + 1) if text[:end].endswith(tuple(strings))), None)


@given(TEXT, STRINGS, st.lists(st.integers(1, 4)))
def test_found_where_the_first_one_is_complete(text: str, strings: list[str], sizes: list[int]) -> None:
    """However the text is cut."""
    stops, fed = StopStrings(strings), ""
    pieces, rest = [], text
    for size in [*sizes, len(text)]:
        pieces.append(rest[:size])
        rest = rest[size:]
    end = first_end(text, strings)
    for piece in pieces:
        found = stops.feed(piece)
        if found:
            assert len(fed) + found[0] == end
            whole = text[:end]
            assert found[1] == max(len(string) for string in strings if whole.endswith(string))
            return
        fed += piece
        beginnings = [fed[-n:] for n in range(1, len(fed) + 1) if any(s.startswith(fed[-n:]) for s in strings)]
        assert stops.held == max(map(len, beginnings), default=0)
    assert end is None


@given(TEXT, STRINGS)
def test_shown_is_the_text_before_and_never_too_early(tokenizer: Tokenizer, text: str, strings: list[str]) -> None:
    """Token by token, some of them parts of a character."""
    script = [id for character in text for id in bytes_of(tokenizer, character)]
    engine = parrot(tokenizer, [*script, tokenizer.special("<|assistant_end|>")])
    request = Request([tokenizer.bos], 100, temperature=0.0, stop=strings)
    end = first_end(text, strings)
    said = text if end is None else text[: end - max(len(s) for s in strings if text[:end].endswith(s))]
    [completion] = engine.generate([request])
    assert (completion.text, completion.finish) == (said, "stop")
    used = script if end is None else [id for character in text[:end] for id in bytes_of(tokenizer, character)]
    assert completion.ids == used
    shown, tokens = "", []
    stream = engine.stream(request)
    for byte in count(1):
        engine.step()
        for token in stream.take():
            tokens.append(token)
            shown += token.text
        if stream.done:
            break
        # Whatever comes now, what is shown does not begin a stop string.
        so_far = text.encode()[:byte].decode(errors="ignore")
        beginnings = (n for n in range(len(so_far), 0, -1) if any(s.startswith(so_far[-n:]) for s in strings))
        assert so_far[: len(so_far) - next(beginnings, 0)].startswith(shown)
    assert shown == said
    assert [token.id for token in tokens] == completion.ids


def bytes_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return [tokenizer.ranks[bytes([byte])] for byte in text.encode()]


def asked(tokenizer: Tokenizer, script: list[int], stop: list[str], **settings: int) -> tuple[list[Token], str, str]:
    """Tokens, text and finish; of `generate` and `stream` alike."""
    engine = parrot(tokenizer, script)
    request = Request([tokenizer.bos], **{"max_tokens": 100, **settings}, temperature=0.0, stop=stop)
    tokens = list(engine.stream(request))
    [completion] = engine.generate([request])
    assert [token.id for token in tokens] == completion.ids
    assert "".join(token.text for token in tokens if token.kind == "text") == completion.text
    return tokens, completion.text, completion.finish


@pytest.fixture
def call(tokenizer: Tokenizer) -> list[int]:
    start, end = (tokenizer.special(f"<|python_{which}|>") for which in ("start", "end"))
    return [start, *tokenizer.encode("40+2"), end]


def test_tool_calls_may_hold_them(tokenizer: Tokenizer, call: list[int]) -> None:
    """Neither in the code nor in its result do they end the answer, nor across one."""
    result = len(tokenizer.encode("42")) + 2
    script = [*tokenizer.encode("a4"), *call, *[0] * result, *tokenizer.encode("2a"), tokenizer.bos]
    tokens, text, finish = asked(tokenizer, script, ["42", "40", "+"])
    assert (text, finish) == ("a42a", "stop")
    assert "".join(token.text for token in tokens) == "a440+2422a"


def test_after_a_tool_call_they_count_again(tokenizer: Tokenizer, call: list[int]) -> None:
    result = len(tokenizer.encode("42")) + 2
    script = [*call, *[0] * result, *tokenizer.encode("is 42."), tokenizer.bos]
    engine = parrot(tokenizer, script)
    [completion] = engine.generate([Request([tokenizer.bos], temperature=0.0, stop=["42"])])
    assert completion.parts == [Part("python", "40+2"), Part("python_output", "42"), Part("text", "is ")]
    assert completion.stop is None


def test_what_was_held_back_comes_at_the_end(tokenizer: Tokenizer) -> None:
    script = bytes_of(tokenizer, "ab")
    for ending in ([tokenizer.special("<|assistant_end|>")], []):
        tokens, text, finish = asked(tokenizer, [*script, *ending], ["abb!"], max_tokens=3)
        assert text == ("ab" if ending else "abb")
        assert finish == ("stop" if ending else "length")
        assert "".join(token.text for token in tokens) == text


def test_held_back_before_a_tool_call_it_stays_text(tokenizer: Tokenizer, call: list[int]) -> None:
    tokens, text, _ = asked(tokenizer, [*bytes_of(tokenizer, "ab"), *call, *[0] * 4, tokenizer.bos], ["abc"])
    assert text[:2] == "ab"
    assert [token.kind for token in tokens[:3]] == ["text", "text", "special"]


def test_a_stop_string_on_the_last_token(tokenizer: Tokenizer) -> None:
    assert asked(tokenizer, bytes_of(tokenizer, "ab"), ["b"], max_tokens=2)[1:] == ("a", "stop")


def test_log_probabilities_go_with_the_ids(tokenizer: Tokenizer) -> None:
    engine = parrot(tokenizer, bytes_of(tokenizer, "abcd"))
    [completion] = engine.generate([Request([tokenizer.bos], temperature=0.0, stop=["bc"], logprobs=1)])
    assert completion.text == "a"
    assert completion.ids == bytes_of(tokenizer, "abc")
    assert completion.logprobs == pytest.approx([0, 0, 0])
    assert [top[0][0] for top in completion.top or []] == completion.ids
    assert [(token.id, token.text) for token in completion.tokens or []] == [
        *zip(completion.ids, ("a", "", ""), strict=True)
    ]
    assert completion.end is None


def test_with_log_probabilities_the_stop_token_is_told(tokenizer: Tokenizer) -> None:
    engine = parrot(tokenizer, [*bytes_of(tokenizer, "ab"), tokenizer.bos])
    [completion] = engine.generate([Request([tokenizer.bos], temperature=0.0, logprobs=1)])
    assert (completion.ids, completion.stop) == (bytes_of(tokenizer, "ab"), tokenizer.bos)
    assert completion.end == Token(tokenizer.bos, "", "special", 0, pytest.approx(0), completion.end.top)  # type: ignore[arg-type]
    assert completion.end.top[0] == (tokenizer.bos, pytest.approx(0))
    assert completion.tokens == list(engine.stream(Request([tokenizer.bos], temperature=0.0, logprobs=1)))


def test_of_two_that_end_together_the_longer_one_counts() -> None:
    for strings in (["bcd", "cd", "d"], ["d", "cd", "bcd"]):
        assert StopStrings(strings).feed("abcde") == (4, 3)


def test_a_very_long_one_costs_no_more(tokenizer: Tokenizer) -> None:
    stops = StopStrings(["a" * 100_000 + "b"])
    assert stops.feed("a" * 300_000) is None
    assert stops.held == 100_000
    assert stops.feed("ab") == (2, 100_001)
