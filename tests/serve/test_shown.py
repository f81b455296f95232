"""Tool calls shown as text, and read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.conversation import Part
from nanochat.inference import Token
from nanochat.serve.shown import Reading, Shown, shown
from nanochat.tools import calculate

SAID = [
    Part("text", "That is "),
    Part("python", "12*3"),
    Part("python_output", "36"),
    Part("text", "36"),
]
CODE = st.sampled_from(["12*3", "1/3", "'a[b = 2]'.count('b')", "len('[')", "2 ** 10", "1,000 - 3000"])
TEXT = st.text(st.sampled_from("ab ="), min_size=1, max_size=4)
CALL = CODE.map(lambda code: [Part("python", code), Part("python_output", calculate(code) or "")])
REFUSED = st.just([Part("python", "3*You are")])
ANSWER = st.lists(st.tuples(TEXT, CALL), max_size=3).map(
    lambda pairs: [part for text, call in pairs for part in (Part("text", text), *call)]
)


def test_as_the_terminal_shows_it() -> None:
    assert shown(SAID) == "That is [12*3 = 36] 36"
    assert shown([Part("python", "12*")]) == "[12*] "  # better than no answer
    assert shown([Part("text", "That is "), Part("python", "12*"), Part("text", " 36")]) == "That is 36"
    assert shown([]) == ""


@given(
    st.lists(st.tuples(TEXT, st.one_of(CALL, REFUSED)), max_size=4).map(
        lambda pairs: [part for text, call in pairs for part in (Part("text", text), *call)]
    ),
    st.integers(1, 3),
)
def test_token_by_token_it_is_the_same(parts: list[Part], size: int) -> None:
    state, text = Shown(), ""
    for part in parts:
        if part.type != "text" or text:
            text += state.feed(Token(0, "", "special", 0))
        for start in range(0, len(part.text), size):
            text += state.feed(Token(0, part.text[start : start + size], part.type, 0))
    assert text + state.end() == shown(parts)


@given(ANSWER, TEXT)
def test_read_back_it_is_what_was_said(parts: list[Part], last: str) -> None:
    parts = [*parts, Part("text", last)]
    assert Reading().parts(shown(parts)) == tuple(parts)


@pytest.mark.parametrize(
    "text",
    [
        "[12*3 = 37] 36",
        "12*3 = 36] 36",
        "[12*3 = 36]36",
        "[x = 36] 36",
        "[12*3=36] 36",
        "[12*3 = 36.0] ",
        "",
        "[ = 1] ",
    ],
)
def test_all_else_is_text(text: str) -> None:
    assert Reading().parts(text) == (Part("text", text),)


def test_a_client_that_strips_answers_does_not_matter() -> None:
    assert Reading().parts("[1+1 = 2]") == (Part("python", "1+1"), Part("python_output", "2"))


def test_it_stops_looking_where_nothing_is_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr("nanochat.serve.shown.calculate", lambda code: looked.append(len(code)))
    reading = Reading()
    for hostile in ["[" + "1+" * 450 + '"' + " = 1] " * 1000, "[1+1 = 2] " * 1000, "[" * 1000 + "1 = 1]"] * 300:
        assert reading.parts(hostile) == (Part("text", hostile),)
    assert sum(looked) <= 60_000 and max(looked) <= 1000


@pytest.mark.parametrize("call", ["[1+1 = 2] ", f"[{'+'.join('1' * 480)} = 480] "], ids=["short", "long"])
def test_it_stops_looking_where_there_is_too_much_to_be_found(call: str) -> None:
    reading = Reading()
    found = sum(part.type == "python" for _ in range(10) for part in reading.parts(call * 1000))
    assert 0 < found * (len(call) + 20) < 150_000
    assert Reading().parts("[1+1 = 2] " * 1000)[-1] == Part("python_output", "2")  # a long conversation's
