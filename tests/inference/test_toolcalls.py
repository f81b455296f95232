"""The tool state machine, driven by a model that says what it is told to say."""

from __future__ import annotations

import pytest

from nanochat.conversation import Part
from nanochat.inference import Request
from nanochat.tokenizer import Tokenizer
from tests.inference.fakes import parrot


@pytest.fixture
def special(tokenizer: Tokenizer) -> dict[str, int]:
    names = ["python_start", "python_end", "output_start", "output_end", "assistant_end", "user_start", "bos"]
    return {name: tokenizer.special(f"<|{name}|>") for name in names}


def test_the_result_is_forced(tokenizer: Tokenizer, special: dict[str, int]) -> None:
    code, result = tokenizer.encode("12*(3+4)"), tokenizer.encode("84")
    call = [special["python_start"], *code, special["python_end"]]
    output = [special["output_start"], *result, special["output_end"]]
    # While the output is forced, the model's own wish is to say something else.
    wish = tokenizer.encode("a") * len(output)
    before, after = tokenizer.encode("It is "), tokenizer.encode("84.")
    engine = parrot(tokenizer, [*before, *call, *wish, *after, special["assistant_end"]])
    for temperature in (0.0, 1.0):
        request = Request([tokenizer.bos], max_tokens=100, temperature=temperature)
        completion = engine.generate([request])[0]
        assert completion.ids == [*before, *call, *output, *after]
        assert completion.finish == "stop"
        assert completion.parts == [
            Part("text", "It is "),
            Part("python", "12*(3+4)"),
            Part("python_output", "84"),
            Part("text", "84."),
        ]
        assert completion.text == "It is 84."
        tokens = list(engine.stream(request))
        assert [token.id for token in tokens] == completion.ids
        for kind in ("text", "python", "python_output"):
            said = "".join(token.text for token in tokens if token.kind == kind)
            assert said == "".join(part.text for part in completion.parts if part.type == kind)
        assert all(token.text == "" for token in tokens if token.kind == "special")


def test_code_without_a_value_forces_nothing(tokenizer: Tokenizer, special: dict[str, int]) -> None:
    call = [special["python_start"], *tokenizer.encode("the dog"), special["python_end"]]
    after = tokenizer.encode("mind")
    completion = parrot(tokenizer, [*call, *after, special["assistant_end"]]).generate(
        [Request([tokenizer.bos], temperature=0.0)]
    )[0]
    assert completion.ids == [*call, *after]
    assert completion.parts == [Part("python", "the dog"), Part("text", "mind")]


def test_forced_tokens_count(tokenizer: Tokenizer, special: dict[str, int]) -> None:
    call = [special["python_start"], *tokenizer.encode("1+1"), special["python_end"]]
    said = [*call, special["output_start"], *tokenizer.encode("2"), special["output_end"]]
    engine = parrot(tokenizer, [*call, *tokenizer.encode("aaaaaaaa")])
    for room in range(len(call) - 1, len(said) + 1):
        completion = engine.generate([Request([tokenizer.bos], temperature=0.0, max_tokens=room)])[0]
        assert completion.ids == said[:room]
        assert completion.finish == "length"


@pytest.mark.parametrize("stop", ["assistant_end", "bos"])
def test_stops(tokenizer: Tokenizer, special: dict[str, int], stop: str) -> None:
    script = [*tokenizer.encode("dog"), special[stop], *tokenizer.encode("never")]
    completion = parrot(tokenizer, script).generate([Request([tokenizer.bos], temperature=0.0)])[0]
    assert (completion.text, completion.finish) == ("dog", "stop")


def test_a_stop_first_is_an_empty_answer(tokenizer: Tokenizer, special: dict[str, int]) -> None:
    engine = parrot(tokenizer, [special["assistant_end"]])
    completion = engine.generate([Request([tokenizer.bos], temperature=0.0, n=3)])[2]
    assert (completion.ids, completion.parts, completion.finish) == ([], [], "stop")
    assert list(engine.stream(Request([tokenizer.bos]))) == []


def test_two_blocks_in_a_row_stay_two_parts(tokenizer: Tokenizer, special: dict[str, int]) -> None:
    def call(code: str) -> list[int]:
        return [special["python_start"], *tokenizer.encode(code), special["python_end"]]

    script = [*call("x"), *call("y"), special["assistant_end"]]
    completion = parrot(tokenizer, script).generate([Request([tokenizer.bos], temperature=0.0)])[0]
    assert completion.parts == [Part("python", "x"), Part("python", "y")]


def test_specials_out_of_place_are_not_said(tokenizer: Tokenizer, special: dict[str, int]) -> None:
    """The model wishes for a closing fence outside of a block, and for a user's turn."""
    script = [special["python_end"], special["user_start"], special["output_start"], special["assistant_end"]]
    completion = parrot(tokenizer, script).generate([Request([tokenizer.bos], temperature=0.0)])[0]
    assert len(completion.ids) == 3
    assert all(id < len(tokenizer.ranks) for id in completion.ids)


def test_a_character_in_several_tokens(tokenizer: Tokenizer, special: dict[str, int]) -> None:
    ids = [tokenizer.ranks[bytes([byte])] for byte in "é🦉".encode()]
    engine = parrot(tokenizer, [*ids, special["assistant_end"]])
    texts = [token.text for token in engine.stream(Request([tokenizer.bos], temperature=0.0))]
    assert texts == ["", "é", "", "", "", "🦉"]
    cut = engine.generate([Request([tokenizer.bos], temperature=0.0, max_tokens=4)])[0]
    assert cut.text == "é"


def test_closing_a_stream_ends_the_work(tokenizer: Tokenizer) -> None:
    engine = parrot(tokenizer, tokenizer.encode("a"))
    stream = engine.stream(Request([tokenizer.bos], max_tokens=100))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert list(stream) == []
