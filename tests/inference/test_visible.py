"""Tool calls without a result leave nothing that is seen, token by token and in a whole answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.conversation import Part, PartType
from nanochat.inference import Token, Visible, visible

Pieces = Sequence[tuple[PartType, str]]

CASES: list[tuple[Pieces, Pieces]] = [
    ([("text", "It is "), ("python", "3*You are!"), ("text", " 5.")], [("text", "It is 5.")]),
    ([("text", "It is "), ("python", "3*"), ("text", "  "), ("text", " 5.")], [("text", "It is 5.")]),
    ([("text", "It is\n"), ("python", "3*"), ("text", " 5.")], [("text", "It is\n5.")]),
    ([("text", "It is"), ("python", "3*"), ("text", " 5.")], [("text", "It is 5.")]),
    ([("text", "It is "), ("python", "3*")], [("text", "It is ")]),
    ([("python", "x"), ("text", "\n Hi")], [("text", "Hi")]),
    ([("python", "x"), ("python", "y"), ("text", "Hi")], [("text", "Hi")]),
    (
        [("python", "x"), ("python", "1+1"), ("python_output", "2"), ("python", "y"), ("text", " so 2")],
        [("python", "1+1"), ("python_output", "2"), ("text", "so 2")],
    ),
    (
        [("text", "a"), ("python", "1+1"), ("python_output", "2"), ("text", " "), ("python", "y")],
        [("text", "a"), ("python", "1+1"), ("python_output", "2"), ("text", " ")],
    ),
    # An answer that says nothing else
    ([("python", "x")], [("python", "x")]),
    ([("text", " "), ("python", "x"), ("text", " "), ("python", "y"), ("text", "\n")],) * 2,
    ([], []),
]


def parts_of(pieces: Pieces) -> list[Part]:
    return [Part(kind, text) for kind, text in pieces]


def streamed(parts: Sequence[Part], size: int = 100) -> list[str]:
    """What has been seen after each token and at the end, as kinds and texts."""
    sieve, seen, after = Visible(), "", []
    for part in parts:
        tokens = [part.text[at : at + size] for at in range(0, len(part.text), size)]
        for token in [Token(7, "", "special", 0), *(Token(0, text, part.type, 0) for text in tokens)]:
            seen += "".join(f"{one.kind}:{one.text}|" for one in sieve.feed(token) if one.kind != "special")
            after.append(seen)
    return [*after, seen + "".join(f"{one.kind}:{one.text}|" for one in sieve.end() if one.kind != "special")]


@pytest.mark.parametrize(("said", "seen"), CASES)
def test_what_is_seen(said: Pieces, seen: Pieces) -> None:
    assert visible(parts_of(said)) == parts_of(seen)


def test_a_call_appears_with_its_result() -> None:
    call = parts_of([("text", "So "), ("python", "1+1"), ("python_output", "2"), ("text", "2")])
    first, *_, last = streamed(call)
    assert first == ""
    assert "python:1+1|" not in streamed(call[:2])[-1]
    assert last == "text:So |python:1+1|python_output:2|text:2|"


def test_nothing_of_a_call_is_seen_before_it_is_known_to_fail() -> None:
    said = parts_of([("text", "So "), ("python", "nonsense"), ("text", "2")])
    assert set(streamed(said, 1)) == {"", "text:S|", "text:S|text:o|", "text:S|text:o|text: |"} | {
        "text:S|text:o|text: |text:2|"
    }
    alone = streamed(parts_of([("python", "nonsense")]), 3)
    assert alone[-2:] == ["", "python:non|python:sen|python:se|"]


TEXT = st.text(st.sampled_from("ab \n"), min_size=1, max_size=4)
CALLS = st.sampled_from([[Part("python", "x y")], [Part("python", "1+1"), Part("python_output", "2")]])
ANSWERS = st.lists(st.one_of(TEXT.map(lambda text: [Part("text", text)]), CALLS), max_size=6).map(
    lambda answers: [part for answer in answers for part in answer]
)


@given(ANSWERS, st.integers(1, 3))
def test_streamed_it_is_the_same(parts: list[Part], size: int) -> None:
    joined = [Part(part.type, part.text) for part in visible(parts)]
    whole = "".join(part.text for part in joined)
    text = "".join(piece.split(":", 1)[1] for piece in streamed(parts, size)[-1].split("|")[:-1])
    assert text == whole
    words = "".join(part.text for part in parts if part.type == "text")
    assert [letter for letter in whole if letter in "ab"] == [letter for letter in words if letter in "ab"]
    if any(part.type == "python_output" for part in parts) or words.strip():
        assert "x" not in whole
        assert whole.count("2") == sum(part.type == "python_output" for part in parts)
    else:
        assert whole == "".join(part.text for part in parts)  # which says nothing else


@given(ANSWERS)
def test_where_all_calls_have_a_result_nothing_changes(parts: list[Part]) -> None:
    good = [part for part in parts if part.text != "x y"]
    assert "".join(part.text for part in visible(good)) == "".join(part.text for part in good)
