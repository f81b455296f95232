"""The race of writing answers, in its smallest pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import generate
from nanochat.console import UserError
from nanochat.native import level

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"peer": Path("none")}, "none has no nanochat/gpt.py"),
        ({"before": Path("none")}, "none has no nanochat/commands/chat_eval.py"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"tokens": 1}, "--tokens 1"),
        ({"tokens": 1000}, "--tokens 1000"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        generate.main(generate.Config(**settings))


def test_an_answer_is_timed_token_by_token() -> None:
    found = generate.answer(1, 3, 8)
    assert found["tokens"] == 24
    assert 0 < found["first_s"] < found["first_s"] + 7 * found["decode_s"] == pytest.approx(found["seconds"])


@pytest.mark.parametrize("quantize", ["", "int8"])
def test_a_models_answer_is_that_of_the_plain_model(quantize: Any) -> None:
    if not level():
        pytest.skip("torch rounds more than the bound allows, and has no eight bits")
    found = generate.beside_plain(1, quantize, 8)
    assert found["tokens"] == 8 and found["off"] <= generate.NEAR and found["gap"] <= 2 * generate.NEAR


@pytest.mark.slow
def test_an_older_checkout_grades_the_same_model(tiny_run: Path) -> None:
    ours, older = (generate.chat_eval(tiny_run, "sft", checkout) for checkout in (None, ROOT))
    assert ours["right"] == older["right"] and len(ours["right"]["TinyWorld"]) == 660
